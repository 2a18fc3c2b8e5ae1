-- ARGV of each of KEYS: id, notify_id, state, reason, at, expires_at. Answers 1 if it was written.
local answers = {}
for i, key in ipairs(KEYS) do
  local a = (i - 1) * 6
  local id, state, at = ARGV[a + 1], tonumber(ARGV[a + 3]), tonumber(ARGV[a + 5])
  local prefix, subject = split(key)
  local row = read(key, id)
  answers[i] = 0
  -- The record of its event has cleared what was held.
  if (row and waits(row)) or (not row and state == RECORDED) then
    if row then
      delist(prefix, subject, id, row)
    else
      row = { state, '', ARGV[a + 2], '', at, at, 1, 0, false, false, 0 }
    end
    row[STATE], row[REASON], row[AT], row[BYTES] = state, ARGV[a + 4], at, 0
    row[EXPIRES] = tonumber(ARGV[a + 6])
    write(key, id, row, at)
    answers[i] = 1
  end
end
return answers
