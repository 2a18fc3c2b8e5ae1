-- What may be drained of each bucket (KEYS: its load). ARGV: token, now, limit; then the types that are asked for.
-- Answers a list of triples: 1 where the broker refused it, when it was due, place. Nothing is taken.
-- Bound: what others have leased is passed over, up to PAGES pages of it.
local PAGES = 8
local answers = {}
for i, key in ipairs(KEYS) do
  local found, prefix = {}, key:sub(1, -5)
  local load = redis.call('HMGET', key, 'deferred', 'in_doubt')
  if (tonumber(load[1]) or 0) + (tonumber(load[2]) or 0) > 0 then
    for refused = 0, 1 do
      for t = 4, #ARGV do
        local taken, page, limit = 0, 0, tonumber(ARGV[3])
        local queue = prefix .. 'due:' .. refused .. ':' .. ARGV[t]
        while taken < limit and page < PAGES do
          local some = redis.call(
            'ZRANGEBYSCORE', queue, '-inf', ARGV[2], 'WITHSCORES', 'LIMIT', page * limit, limit)
          for n = 1, #some, 2 do
            local holder = redis.call('GET', prefix .. 'l:' .. some[n]:match('([^ ]*)$'))
            if taken < limit and (not holder or holder == ARGV[1]) then
              found[#found + 1] = refused
              found[#found + 1] = tonumber(some[n + 1])
              found[#found + 1] = some[n]
              taken = taken + 1
            end
          end
          page = #some < 2 * limit and PAGES or page + 1
        end
      end
    end
  end
  answers[i] = found
end
return answers
