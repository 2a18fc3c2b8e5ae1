-- Clears what is held of a notification apart from its trade. ARGV of each of KEYS: id, now.
local answers = {}
for i, key in ipairs(KEYS) do
  local id, prefix, subject = ARGV[2 * i - 1], split(key)
  local held = read(key, id)
  if held and held[STATE] == HELD then
    delist(prefix, subject, id, held)
    remove(key, id, tonumber(ARGV[2 * i]))
  end
  answers[i] = 0
end
return answers
