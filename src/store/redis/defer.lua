-- ARGV: token, what a doubt lasts in ms, and the room that is left: rows, returned rows, bytes, bytes of returned ones;
-- then of each of KEYS: id, state, digest, notify_id, type, cause, at, payment time or '', body.
-- Answers 0 kept; 1 and the state it has been settled with; 2 there is no room; 3 a rival waits there, nothing is done.
local room, room_returned, room_bytes, room_returned_bytes =
  tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local function takes(returned, bytes)
  if bytes > room_bytes then return false end
  if returned and (room_returned < 1 or bytes > room_returned_bytes) then return false end
  if not returned and room < 1 then return false end
  room_bytes = room_bytes - bytes
  if returned then
    room_returned, room_returned_bytes = room_returned - 1, room_returned_bytes - bytes
  else
    room = room - 1
  end
  return true
end

local answers = {}
for i, key in ipairs(KEYS) do
  local a = 6 + (i - 1) * 9
  local id, state, at, body = ARGV[a + 1], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 7]), ARGV[a + 9]
  local prefix, subject = split(key)
  local old = read(key, id)
  local row = {
    state, ARGV[a + 3], ARGV[a + 4], ARGV[a + 5], old and old[FIRST] or at, at, (old and old[ATTEMPTS] or 0) + 1, 0,
    ARGV[a + 6], tonumber(ARGV[a + 8]) or false, #body,
  }
  local lease = prefix .. 'l:' .. id
  local holder = redis.call('GET', lease)
  answers[i] = rival(prefix, subject, id, old, ARGV[a + 3])
  if not answers[i] then
    if old and not waits(old) then
      answers[i] = { 1, old[STATE] }
    elseif old and old[STATE] == IN_DOUBT and holder and holder ~= ARGV[1] then
      -- Kept already, and whether it may be published again is its publisher's to say.
      answers[i] = { 0 }
    elseif not old and not takes(ARGV[a + 6] == 'returned', #body) then
      answers[i] = { 2 }
    else
      if old then delist(prefix, subject, id, old) end
      write(key, id, row, at)
      enlist(prefix, subject, id, row, body)
      answers[i] = { 0 }
    end
  end
  -- What may be in a queue is nobody else's for as long as its confirm may come, kept or not; unless another has it by now.
  if state == IN_DOUBT and answers[i][1] ~= 1 and (not holder or holder == ARGV[1]) then
    redis.call('SET', lease, ARGV[1], 'PX', ARGV[2])
  elseif answers[i][1] ~= 3 then
    end_own_lease(prefix, id, ARGV[1])
  end
end
return answers
