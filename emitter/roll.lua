-- Reads where many rooms are, and returns one fingerprint of it all: nodes ask every few seconds
-- for every room, and nearly always nothing has changed. All rooms are of one server: the keys are
-- made here, and read one by one, since those of a cluster are of many slots.
-- ARGV 1 what stands before a room's name in its :at key  2 what stands after it  3 names, each with a newline behind
local at = {}
for name in string.gmatch(ARGV[3], '([^\n]+)\n') do
  at[#at + 1] = redis.call('MGET', ARGV[1] .. name .. ARGV[2])[1] or '' -- of another type it is none: one room must not hide all others
end
return redis.sha1hex(table.concat(at, '\n'))
