-- Since when nothing is missing (KEYS: a load of the bucket that it is kept in). ARGV: what the present retention leaves, or
-- what is brought was forgotten before; 0 only asks.
local answers = {}
for i, key in ipairs(KEYS) do
  local kept = key:sub(1, -5) .. 'complete_since'
  local before, told = tonumber(redis.call('GET', kept)) or 0, tonumber(ARGV[1])
  if told > before then
    redis.call('SET', kept, string.format('%d', told))
  end
  answers[i] = math.max(before, told)
end
return answers
