-- When the first of what waits in each bucket (KEYS: its load) is due: of what the broker did not refuse, and of what it
-- did; false where there is none. ARGV: the types that are asked for.
local answers = {}
for i, key in ipairs(KEYS) do
  local first, prefix = { false, false }, key:sub(1, -5)
  local load = redis.call('HMGET', key, 'deferred', 'in_doubt')
  if (tonumber(load[1]) or 0) + (tonumber(load[2]) or 0) > 0 then
    for list = 1, 2 do
      for _, event_type in ipairs(ARGV) do
        local queue = prefix .. 'due:' .. (list - 1) .. ':' .. event_type
        local due = tonumber(redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')[2])
        if due and (not first[list] or due < first[list]) then first[list] = due end
      end
    end
  end
  answers[i] = first
end
return answers
