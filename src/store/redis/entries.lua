-- Everything that is kept of each trade of KEYS: a list of rows, each as id, what a row has, and its body.
local answers = {}
for i, key in ipairs(KEYS) do
  local rows, prefix, subject = {}, split(key)
  local all = redis.call('HGETALL', key)
  for n = 1, #all, 2 do
    local row = cmsgpack.unpack(all[n + 1])
    local body = waits(row) and redis.call('HGET', prefix .. 'body', subject .. ' ' .. all[n]) or false
    rows[#rows + 1] = {
      all[n], row[STATE], row[DIGEST], row[NOTIFY], row[TYPE], row[FIRST], row[AT], row[ATTEMPTS], row[EXPIRES],
      row[REASON], row[PAID], ARGV[1] == 'bodies' and body or false,
    }
  end
  answers[i] = rows
end
return answers
