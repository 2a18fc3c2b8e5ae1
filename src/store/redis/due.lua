-- Takes what is due of each bucket (KEYS: its load), the longest due first. ARGV: token, lease in ms, now, 1 for what the
-- broker refused and else 0, how many types, the types; then of each of KEYS: how much at most.
-- Answers of each: when the next of it is due, or false; then of each that is taken: when it was due, its place, and what
-- waits (see waiting.lua); or 0 where what is kept of it cannot be read.
-- What is looked at is put off, so that nobody comes upon it again: what is taken, and what another has leased, until that
-- lease is over, and what cannot be read for as long as the longest back-off.
local token, lease_ms, now, types = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[5])

local function readable(key, id)
  local packed = redis.pcall('HGET', key, id)
  local ok, row = pcall(cmsgpack.unpack, packed)
  return ok and type(row) == 'table' and waits(row) and row
end

-- What is first of each type. What is behind the last of one (has_more) is not seen.
local function first_of(prefix, count)
  local found = {}
  for t = 6, 5 + types do
    local queue = prefix .. 'due:' .. ARGV[4] .. ':' .. ARGV[t]
    local some = redis.call('ZRANGE', queue, 0, count, 'WITHSCORES')
    for n = 1, #some, 2 do
      found[#found + 1] = { due = tonumber(some[n + 1]), place = some[n], queue = queue, has_more = n > 2 * count }
    end
  end
  table.sort(found, function(a, b) return a.due < b.due end)
  return found
end

local answers = {}
for i, key in ipairs(KEYS) do
  local prefix, share = key:sub(1, -5), tonumber(ARGV[5 + types + i])
  local found = first_of(prefix, share)
  local answer, taken = { false }, 0
  local function next_at(due)
    if not answer[1] or due < answer[1] then answer[1] = due end
  end
  local function put_off(one, until_then)
    redis.call('ZADD', one.queue, 'XX', until_then, one.place)
    next_at(until_then)
  end
  for _, one in ipairs(found) do
    if one.due > now or taken == share then
      next_at(one.due)
      break
    end
    if one.has_more then next_at(now) end
    local subject, id = one.place:match('^(.*) ([^ ]*)$')
    local lease = prefix .. 'l:' .. id
    local holder = redis.pcall('GET', lease)
    if holder and holder ~= token then
      local left = redis.call('PTTL', lease)
      put_off(one, now + (left > 0 and left or lease_ms))
    else
      local row = readable(prefix .. 't:' .. subject, id)
      if row then
        -- One's own is never made shorter: what is in doubt has a minute.
        if redis.call('PTTL', lease) < lease_ms then redis.call('SET', lease, token, 'PX', lease_ms) end
        answer[#answer + 1] = { one.due, one.place, unpack(waiting(prefix, subject, id, row)) }
        taken = taken + 1
      else
        answer[#answer + 1] = { one.due, one.place, 0 }
      end
      put_off(one, now + (row and lease_ms or 600000))
    end
  end
  answers[i] = answer
end
return answers
