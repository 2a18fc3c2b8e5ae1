-- What waits under a key. ARGV of each of KEYS: id. Answers 0, or what waits.
local answers = {}
for i, key in ipairs(KEYS) do
  local row = read(key, ARGV[i])
  local prefix, subject = split(key)
  answers[i] = row and waits(row) and waiting(prefix, subject, ARGV[i], row) or { 0 }
end
return answers
