-- What every script begins with: how a row is kept, and what is counted of what waits.
--
-- Of each bucket {xx} there are, behind the prefix:
--   t:SUBJECT   a hash of a trade's rows: id -> row (below). It expires when its last row may be forgotten, and never
--               while one of them waits.
--   l:ID        who is at it (a token), for as long as the lease lasts
--   body        a hash: what is kept of each event or notification that waits, by its place
--   load        a hash of numbers: how much waits
--   first       when each event that waits was first kept
--   pay         when it was paid, of all that waits; what is held is there too
--   due:R:TYPE  when it is to be published again; R is 1 where the broker refused it or did not confirm
-- A place is "SUBJECT ID". All keys of a bucket have one hash tag, so that a script may touch them all; only the
-- trades are named in KEYS.

-- A row: state, digest ('' if none), notify_id, type ('' if none), first_at, at, attempts, expires_at (0 if it waits),
-- reason or false, payment time or false, bytes of its body.
local STATE, DIGEST, NOTIFY, TYPE, FIRST, AT, ATTEMPTS, EXPIRES, REASON, PAID, BYTES = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
local RECORDED, DEFERRED, IN_DOUBT, HELD, UNROUTED, DROPPED = 0, 1, 2, 3, 4, 5

local function split(key)
  return key:match('^(.-{%x%x}:)t:(.*)$')
end

local function waits(row)
  return row[STATE] == DEFERRED or row[STATE] == IN_DOUBT or row[STATE] == HELD
end

local function read(key, id)
  local packed = redis.call('HGET', key, id)
  return packed and cmsgpack.unpack(packed)
end

-- Whether the broker itself refused it, or did not confirm; and when it is due again (`store::back_off`).
local function due_of(row)
  local reason = row[REASON]
  local refused = reason == 'returned' or reason == 'nacked' or reason == 'in_doubt' or reason == 'channel_closed'
  if row[STATE] == IN_DOUBT then return refused, row[AT] + 60000 end
  local soft = reason == 'broker_down' or reason == 'broker_blocked' or reason == 'late' or reason == 'suspended'
  if soft then return refused, row[AT] + 1000 end
  return refused, row[AT] + math.min(600000, 1000 * 2 ^ math.min(row[ATTEMPTS] - 1, 10))
end

local function due_key(prefix, row, refused)
  return prefix .. 'due:' .. (refused and '1:' or '0:') .. row[TYPE]
end

-- Adds what waits to what is counted and looked through, or takes it away.
local function count(prefix, subject, row, by)
  local function add(name, number)
    if number ~= 0 then redis.call('HINCRBY', prefix .. 'load', name, number * by) end
  end
  if row[STATE] == HELD then
    add('held', 1)
    add('held_bytes', row[BYTES])
    -- It is kept beside its trade: a record of the trade does not find it there.
    if subject == row[NOTIFY] then add('apart', 1) end
  else
    add(row[STATE] == DEFERRED and 'deferred' or 'in_doubt', 1)
    add('bytes', row[BYTES])
    if row[REASON] == 'returned' then
      add('returned', 1)
      add('returned_bytes', row[BYTES])
    end
  end
end

local function enlist(prefix, subject, id, row, body)
  local place = subject .. ' ' .. id
  count(prefix, subject, row, 1)
  redis.call('HSET', prefix .. 'body', place, body)
  redis.call('ZADD', prefix .. 'pay', row[PAID] or row[FIRST], place)
  if row[STATE] ~= HELD then
    local refused, due = due_of(row)
    redis.call('ZADD', prefix .. 'first', row[FIRST], place)
    redis.call('ZADD', due_key(prefix, row, refused), due, place)
  end
end

local function delist(prefix, subject, id, row)
  local place = subject .. ' ' .. id
  count(prefix, subject, row, -1)
  redis.call('HDEL', prefix .. 'body', place)
  redis.call('ZREM', prefix .. 'pay', place)
  if row[STATE] ~= HELD then
    local refused = due_of(row)
    redis.call('ZREM', prefix .. 'first', place)
    redis.call('ZREM', due_key(prefix, row, refused), place)
  end
end

-- Writes a row, and lets the trade expire with the last that is kept of it. alone: it is known to have no other row.
local function write(key, id, row, now, alone)
  redis.call('HSET', key, id, cmsgpack.pack(row))
  local last = row[EXPIRES]
  local waiting = waits(row)
  if not alone and redis.call('HLEN', key) > 1 then
    for _, packed in ipairs(redis.call('HVALS', key)) do
      local other = cmsgpack.unpack(packed)
      waiting = waiting or waits(other)
      last = math.max(last, other[EXPIRES])
    end
  end
  if waiting then redis.call('PERSIST', key) else redis.call('PEXPIRE', key, math.max(1, last - now)) end
end

local function remove(key, id, now)
  redis.call('HDEL', key, id)
  local first = redis.call('HRANDFIELD', key)
  if first then write(key, first, read(key, first), now) end
end

local function end_own_lease(prefix, id, token)
  local lease = prefix .. 'l:' .. id
  if redis.call('GET', lease) == token then redis.call('DEL', lease) end
end

-- What waits under a key, of other money than that which comes: see conflict.rs.
local function rival(prefix, subject, id, row, digest)
  if row and (row[STATE] == DEFERRED or row[STATE] == IN_DOUBT) and row[DIGEST] ~= digest then
    local body = redis.call('HGET', prefix .. 'body', subject .. ' ' .. id) or ''
    return { 3, row[DIGEST], row[NOTIFY], row[PAID] or false, row[REASON] or '', body }
  end
end
