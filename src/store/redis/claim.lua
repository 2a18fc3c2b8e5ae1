-- ARGV: token, lease in ms; then of each of KEYS: id. Answers 0, or 1 and what is known; 2 where another is at it.
local function known(row)
  if not row or row[DIGEST] == '' then return { 0 } end
  return { 1, row[STATE], row[DIGEST], row[NOTIFY] }
end

local answers = {}
for i, key in ipairs(KEYS) do
  local id = ARGV[2 + i]
  local row = read(key, id)
  if row and not waits(row) then
    answers[i] = known(row)
  else
    local lease = split(key) .. 'l:' .. id
    if redis.call('SET', lease, ARGV[1], 'PX', ARGV[2], 'NX') then
      answers[i] = known(row)
    elseif redis.call('GET', lease) == ARGV[1] then
      redis.call('SET', lease, ARGV[1], 'PX', ARGV[2])
      answers[i] = known(row)
    else
      answers[i] = { 2 }
    end
  end
end
return answers
