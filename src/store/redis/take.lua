-- Takes what is due, if it is still to be had. ARGV: token, lease in ms, now; then of each of KEYS: id.
-- Answers 0, or what waits (see waiting.lua).
local answers = {}
for i, key in ipairs(KEYS) do
  local id = ARGV[3 + i]
  local prefix, subject = split(key)
  local row = read(key, id)
  local lease = prefix .. 'l:' .. id
  answers[i] = { 0 }
  if row and (row[STATE] == DEFERRED or row[STATE] == IN_DOUBT) then
    local _, due = due_of(row)
    local holder = redis.call('GET', lease)
    if due <= tonumber(ARGV[3]) and (not holder or holder == ARGV[1]) then
      redis.call('SET', lease, ARGV[1], 'PX', ARGV[2])
      answers[i] = waiting(prefix, subject, id, row)
    end
  end
end
return answers
