-- ARGV: token, what a doubt lasts in ms; then of each of KEYS: id.
local answers = {}
for i, key in ipairs(KEYS) do
  local lease = split(key) .. 'l:' .. ARGV[2 + i]
  local holder = redis.call('GET', lease)
  if not holder or holder == ARGV[1] then redis.call('SET', lease, ARGV[1], 'PX', ARGV[2]) end
  answers[i] = 0
end
return answers
