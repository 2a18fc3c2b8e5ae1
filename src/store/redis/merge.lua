-- Keeps what was brought from elsewhere: what is settled beats what waits, an announcement beats a decision not to
-- announce, and what is here beats what is brought; other money facts are never written over.
-- ARGV of each of KEYS: id, state, digest, notify_id, type, first_at, at, attempts, expires_at or 0, reason or '',
-- payment time or '', body, now. Answers 0 taken, 1 known, 2 of other money.
local answers = {}
for i, key in ipairs(KEYS) do
  local a = (i - 1) * 13
  local id, body, now = ARGV[a + 1], ARGV[a + 12], tonumber(ARGV[a + 13])
  local prefix, subject = split(key)
  local row = {
    tonumber(ARGV[a + 2]), ARGV[a + 3], ARGV[a + 4], ARGV[a + 5], tonumber(ARGV[a + 6]), tonumber(ARGV[a + 7]),
    tonumber(ARGV[a + 8]), tonumber(ARGV[a + 9]), ARGV[a + 10] ~= '' and ARGV[a + 10],
    tonumber(ARGV[a + 11]) or false, 0,
  }
  local here = read(key, id)
  local over = not here or (waits(here) and not waits(row))
    or ((here[STATE] == DROPPED or here[STATE] == UNROUTED) and row[STATE] == RECORDED)
  if here and here[DIGEST] ~= '' and row[DIGEST] ~= '' and here[DIGEST] ~= row[DIGEST] then
    answers[i] = 2
  elseif not over then
    answers[i] = 1
  else
    if here and waits(here) then delist(prefix, subject, id, here) end
    if waits(row) then row[BYTES], row[EXPIRES] = #body, 0 end
    write(key, id, row, now)
    if waits(row) then enlist(prefix, subject, id, row, body) end
    answers[i] = 0
  end
end
return answers
