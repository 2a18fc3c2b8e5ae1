-- Whether each bucket can be written (KEYS: its load).
local answers = {}
for i, key in ipairs(KEYS) do
  redis.call('SET', key:sub(1, -5) .. 'probe', '', 'PX', 1000)
  answers[i] = 0
end
return answers
