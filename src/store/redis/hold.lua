-- ARGV: token, and the room that is left: rows, bytes; then of each of KEYS: id, notify_id, reason, at, payment time or '',
-- body.
-- Answers as defer.
local room, room_bytes = tonumber(ARGV[2]), tonumber(ARGV[3])
local answers = {}
for i, key in ipairs(KEYS) do
  local a = 3 + (i - 1) * 6
  local id, at, body = ARGV[a + 1], tonumber(ARGV[a + 4]), ARGV[a + 6]
  local prefix, subject = split(key)
  local old = read(key, id)
  if old and not waits(old) then
    answers[i] = { 1, old[STATE] }
  elseif not old and (room < 1 or #body > room_bytes) then
    answers[i] = { 2 }
  else
    if old then
      delist(prefix, subject, id, old)
    else
      room, room_bytes = room - 1, room_bytes - #body
    end
    local row = {
      HELD, '', old and old[NOTIFY] or ARGV[a + 2], '', old and old[FIRST] or at, at,
      (old and old[ATTEMPTS] or 0) + 1, 0, ARGV[a + 3], tonumber(ARGV[a + 5]) or false, #body,
    }
    write(key, id, row, at)
    enlist(prefix, subject, id, row, body)
    answers[i] = { 0 }
  end
  end_own_lease(prefix, id, ARGV[1])
end
return answers
