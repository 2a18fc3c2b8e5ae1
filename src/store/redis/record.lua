-- ARGV of each of KEYS: id, id of what may be held of the same notification, state, digest, notify_id, type, at,
-- expires_at. Answers 0; or the rival that has to step aside first, and nothing is written.
local answers = {}
for i, key in ipairs(KEYS) do
  local a = (i - 1) * 8
  local id, held_id, at = ARGV[a + 1], ARGV[a + 2], tonumber(ARGV[a + 7])
  local prefix, subject = split(key)
  -- All rows at once: mostly there is none.
  local old, held, alone = nil, nil, true
  local all = redis.call('HGETALL', key)
  for n = 1, #all, 2 do
    if all[n] == id then
      old = cmsgpack.unpack(all[n + 1])
    elseif all[n] == held_id then
      held = cmsgpack.unpack(all[n + 1])
    else
      alone = false
    end
  end
  answers[i] = rival(prefix, subject, id, old, ARGV[a + 4])
  if not answers[i] then
    if old and waits(old) then delist(prefix, subject, id, old) end
    if held and held[STATE] == HELD then
      delist(prefix, subject, held_id, held)
      redis.call('HDEL', key, held_id)
    elseif held then
      alone = false
    end
    write(key, id, {
      tonumber(ARGV[a + 3]), ARGV[a + 4], ARGV[a + 5], ARGV[a + 6], old and old[FIRST] or at, at,
      (old and old[ATTEMPTS] or 0) + 1, math.max(old and old[EXPIRES] or 0, tonumber(ARGV[a + 8])), false,
      old and old[PAID] or false, 0,
    }, at, alone)
    redis.call('DEL', prefix .. 'l:' .. id)
    answers[i] = { 0 }
  end
end
return answers
