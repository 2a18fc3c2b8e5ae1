-- ARGV: token; then of each of KEYS: id.
local answers = {}
for i, key in ipairs(KEYS) do
  end_own_lease(split(key), ARGV[1 + i], ARGV[1])
  answers[i] = 0
end
return answers
