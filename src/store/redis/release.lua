-- Gives one's own leases back, and with them what was taken to be drained. ARGV: token; then of each of KEYS: id.
-- Answers nothing; or, where it waits again, 1 if the broker had refused it and else 0, and when it is due.
local answers = {}
for i, key in ipairs(KEYS) do
  local id, prefix, subject = ARGV[1 + i], split(key)
  local lease = prefix .. 'l:' .. id
  answers[i] = {}
  if redis.call('GET', lease) == ARGV[1] then
    redis.call('DEL', lease)
    local row = read(key, id)
    if row and (row[STATE] == DEFERRED or row[STATE] == IN_DOUBT) then
      local refused, due = due_of(row)
      redis.call('ZADD', due_key(prefix, row, refused), 'XX', due, subject .. ' ' .. id)
      answers[i] = { refused and 1 or 0, due }
    end
  end
end
return answers
