-- Reads where many rooms are, and returns one fingerprint of it all: nodes ask every few seconds
-- for every room, and nearly always nothing has changed. One Redis only: the keys are made here.
-- ARGV 1 what stands before a room's name in its :at key  2 what stands after it  3 names, each with a newline behind
local keys = {}
for name in string.gmatch(ARGV[3], '([^\n]+)\n') do keys[#keys + 1] = ARGV[1] .. name .. ARGV[2] end
local at = redis.call('MGET', unpack(keys))
for i = 1, #keys do at[i] = at[i] or '' end
return redis.sha1hex(table.concat(at, '\n'))
