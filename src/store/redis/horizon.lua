-- Since when nothing is missing (KEYS: a load of the bucket that it is kept in). ARGV: what the present retention leaves.
local answers = {}
for i, key in ipairs(KEYS) do
  local kept = key:sub(1, -5) .. 'complete_since'
  local since = math.max(tonumber(redis.call('GET', kept)) or 0, tonumber(ARGV[1]))
  redis.call('SET', kept, string.format('%d', since))
  answers[i] = since
end
return answers
