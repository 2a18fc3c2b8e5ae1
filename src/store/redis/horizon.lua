-- Since when nothing is missing (KEYS: a load of the bucket that it is kept in). ARGV: the time; how long what the answer says is
-- good for; the retention that is in force, or 0 to ask only; what was forgotten before by the store that something is brought of.
-- `retentions` has until when each was in force: what was written by then goes on expiring. By a clock that was ahead once a shorter
-- one may seem to be in force still, and no more; one that is behind takes nothing away.
local now, good_for, retention, brought = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local answers = {}
for i, key in ipairs(KEYS) do
  local kept, told = key:sub(1, -5) .. 'complete_since', key:sub(1, -5) .. 'retentions'
  local since = tonumber(redis.call('GET', kept)) or 0
  if since > now then
    since = 0
  end
  if brought > since then
    since = brought
    redis.call('SET', kept, string.format('%d', since))
  end
  if retention > 0 then
    local field = string.format('%d', retention)
    if now > (tonumber(redis.call('HGET', told, field)) or 0) then
      redis.call('HSET', told, field, string.format('%d', now))
    end
  end
  local all = redis.call('HGETALL', told)
  for n = 1, #all, 2 do
    local another, at = tonumber(all[n]) or 0, tonumber(all[n + 1]) or 0
    if retention == 0 or another < retention then
      since = math.max(since, math.min(now - another, at) + good_for)
    end
  end
  answers[i] = since
end
return answers
