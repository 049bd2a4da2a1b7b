-- Writes a revocation down and tells all nodes. The clock of Redis says when; the id does not, since
-- it never goes back, also after a clock that was ahead.
-- KEYS 1 the log, a stream
-- ARGV 1 the revocation as JSON  2 PUBLISH or SPUBLISH  3 the control channel
-- Returns the entry's id.
local now = redis.call('TIME')
local at = string.format('%d', now[1] * 1000 + math.floor(now[2] / 1000))
local id = redis.call('XADD', KEYS[1], '*', 'r', ARGV[1], 't', at)
redis.call(ARGV[2], ARGV[3], 'revoked')
return id
