-- What waits, in the order of the trait's own fields.
local function waiting(prefix, subject, id, row)
  local body = redis.call('HGET', prefix .. 'body', subject .. ' ' .. id) or ''
  return { 1, row[STATE], row[DIGEST], row[NOTIFY], row[TYPE], row[PAID], row[REASON] or '', row[FIRST], body }
end
