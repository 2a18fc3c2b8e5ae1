-- Keeps what waits under a key as the conflict that it is, under the id of that, unless something is kept there;
-- under its own id again it is put away for good.
-- ARGV of each of KEYS: id, digest that it is to have, id of the conflict, its type, its body, now.
-- Answers 1 if it was there.
local answers = {}
for i, key in ipairs(KEYS) do
  local a = (i - 1) * 6
  local id, aside, now = ARGV[a + 1], ARGV[a + 3], tonumber(ARGV[a + 6])
  local prefix, subject = split(key)
  local old = read(key, id)
  answers[i] = 0
  if old and (old[STATE] == DEFERRED or old[STATE] == IN_DOUBT) and old[DIGEST] == ARGV[a + 2] then
    delist(prefix, subject, id, old)
    if redis.call('HEXISTS', key, aside) == 0 then
      old[TYPE], old[BYTES] = ARGV[a + 4], #ARGV[a + 5]
      write(key, aside, old, now)
      enlist(prefix, subject, aside, old, ARGV[a + 5])
    end
    remove(key, id, now)
    answers[i] = 1
  end
end
return answers
