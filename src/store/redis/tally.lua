-- How much waits in each bucket (KEYS: its load).
local names = { 'deferred', 'in_doubt', 'returned', 'bytes', 'returned_bytes', 'held', 'held_bytes', 'apart' }
local answers = {}
for i, key in ipairs(KEYS) do
  local load = redis.call('HMGET', key, unpack(names))
  local any = false
  for n = 1, #names do
    load[n] = tonumber(load[n]) or 0
    any = any or load[n] ~= 0
  end
  if any then
    local prefix = key:sub(1, -5)
    for _, name in ipairs({ 'first', 'pay' }) do
      load[#load + 1] = tonumber(redis.call('ZRANGE', prefix .. name, 0, 0, 'WITHSCORES')[2]) or false
    end
    answers[i] = load
  else
    answers[i] = {}
  end
end
return answers
