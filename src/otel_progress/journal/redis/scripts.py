"""Lua scripts of the journal. Each changes keys of one slot.

Every script may run twice, or later than expected: the client repeats a call whose answer it did
not receive, and a call that timed out may still run. Values have sequence numbers as text of fixed
width, because Lua loses integers beyond 2**53.
"""

from __future__ import annotations

import hashlib
from typing import Final

from otel_progress.journal.redis.client import Script

MAX_FEED_ENTRIES: Final = 10_000
"""Approximate number of entries of the feed. A reader that is further behind reads all active runs.
"""


MAX_CALL_LEVELS: Final = 1_000
"""Levels of one call of ``WRITE_RUN``. More are split, because a script stops the whole server."""


WRITTEN_KEYS: Final = 3
"""First keys of a run, which ``WRITE_RUN`` changes. It renews the time to live of all."""


MAX_CALL_RUNS: Final = 500
"""Runs of one call of ``FEED``. More are split."""


MAX_READ_RUNS: Final = 100
"""Runs of one call of ``READ_ROOTS``. More are split, because a script stops the whole server."""


MAX_DUPLICATE_RUNS: Final = 100
"""Newest runs of an operation id among which ``FEED`` searches an active one. An older one is not
found, so its id is used twice.
"""


MAX_CALL_RECORDS: Final = 1_000
"""Records of one call of a script. More are split."""


def _script(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


# Returns the time of the server in microseconds, or the one of the caller for tests.
_NOW: Final = """
local function now_us(given)
  if given ~= '' then return given end
  local time = redis.call('TIME')
  return string.format('%010d%06d', tonumber(time[1]), tonumber(time[2]))
end
"""


WRITE_RUN: Final = _script("""
local levels, infos, meta = KEYS[1], KEYS[2], KEYS[3]
local writer, number, expected, ttl = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local successor = redis.call('HGET', meta, 'superseded')
if successor and successor ~= writer then return {'superseded', successor} end
local last = redis.call('HGET', meta, writer)
if expected ~= '' and (not last or last < expected) then return {'lost'} end
if last and last > number then return {'late'} end
redis.call('HSET', meta, writer, number)
local index = 5
local evicted = tonumber(ARGV[index])
if evicted > 0 then
  local exact, subtrees = {}, {}
  for i = index + 1, index + evicted do
    exact[ARGV[i]] = true
    subtrees[#subtrees + 1] = ARGV[i] .. '/'
  end
  local found = {}
  for _, path in ipairs(redis.call('HKEYS', levels)) do
    local gone = exact[path]
    if not gone then
      local parent = string.match(path, '^(.*)/[^/]*$')
      while parent and not gone do
        gone = exact[parent]
        parent = string.match(parent, '^(.*)/[^/]*$')
      end
    end
    if gone and path ~= '' then found[#found + 1] = path end
  end
  for i = 1, #found, 1000 do
    local last_index = math.min(i + 999, #found)
    redis.call('HDEL', levels, unpack(found, i, last_index))
    redis.call('HDEL', infos, unpack(found, i, last_index))
  end
end
index = index + evicted + 1
local states, texts, kept = {}, {}, false
for i = index, #ARGV, 3 do
  local path, state = ARGV[i], ARGV[i + 1]
  local stored, sequence = redis.call('HGET', levels, path), string.sub(state, 1, 16)
  local stored_sequence = stored and string.sub(stored, 1, 16) or ''
  if stored_sequence < sequence then
    states[#states + 1] = path
    states[#states + 1] = state
  end
  if ARGV[i + 2] ~= '' then
    -- Both start with the sequence and the digest of the constant values.
    local same = stored and string.sub(stored, 1, 24) == string.sub(state, 1, 24)
    if stored_sequence < sequence or same then
      texts[#texts + 1] = path
      texts[#texts + 1] = ARGV[i + 2]
    else
      kept = true
    end
  end
end
if #states > 0 then redis.call('HSET', levels, unpack(states)) end
if #texts > 0 then redis.call('HSET', infos, unpack(texts)) end
if ttl > 0 then
  for i = 1, #KEYS do redis.call('PEXPIRE', KEYS[i], ttl) end
end
if redis.call('HLEN', levels) ~= redis.call('HLEN', infos) then return {'incomplete'} end
return {kept and 'kept' or 'ok'}
""")
"""Writes levels of a run, and evicts others.

Keys: levels, infos, meta, and further keys of the run. Arguments: writer and its number, the number
that the run must have at least ('' for any), time to live in milliseconds (0 for none), number of
evicted paths, these paths, and for each level its path, its state, and its constant values ('' if
they are stored).

Answers 'superseded' and the successor without a change if another process has continued the run.
Only the successor itself writes its last state. Answers 'lost' without a change if the run was
lost, 'late' without a change if a later call of the writer ran already, 'incomplete' if constant
values are missing, and 'kept' if given ones were not stored, because the stored level is not older.
"""


SUPERSEDE_RUN: Final = _script("""
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[2], 'superseded', ARGV[1])
return 1
""")
"""Fences a run: its process cannot write it any more.

Keys: levels, meta. Argument: the run that continues it.
"""


ADD_KEYS: Final = _script("""
local owner = redis.call('GET', KEYS[2])
if owner and owner ~= ARGV[1] then return {'superseded', owner} end
if not owner then redis.call('SET', KEYS[2], ARGV[1]) end
if #ARGV > 2 then redis.call('SADD', KEYS[1], unpack(ARGV, 3, #ARGV)) end
if tonumber(ARGV[2]) > 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
return {'ok', ''}
""")
"""Adds completed keys. Keys: completed keys, owner. Arguments: run, time to live, and the keys.

Answers 'superseded' and the owner without a change if the run is not the owner.
"""


DELETE_KEYS: Final = _script("""#!lua flags=allow-oom
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('UNLINK', KEYS[1], KEYS[2]) end
return 0
""")
"""Deletes completed keys with the newest run of their lineage. Keys: completed keys, owner."""


ADD_RECORDS: Final = _script("""
local records, ttl, limit = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local removed = {}
for i = 3, #ARGV, 2 do
  local prefix = ARGV[i]
  local stored = redis.call('ZRANGEBYLEX', records, '[' .. prefix, '[' .. prefix .. '\\255', 'LIMIT', 0, 1)
  if ARGV[i + 1] == '' then
    if #stored > 0 then
      redis.call('ZREM', records, stored[1])
      removed[#removed + 1] = stored[1]
    end
  elseif #stored == 0 then
    redis.call('ZADD', records, 0, prefix .. ARGV[i + 1])
  end
end
local dropped = {}
local surplus = redis.call('ZCARD', records) - limit
if surplus > 0 then
  dropped = redis.call('ZRANGE', records, 0, surplus - 1)
  redis.call('ZREMRANGEBYRANK', records, 0, surplus - 1)
end
if ttl > 0 then redis.call('PEXPIRE', records, ttl) end
return {removed, dropped}
""")
"""Adds records, each as its sortable id and its text. An empty text removes a record.

A stored id is kept. Arguments: time to live, and the number of records that are kept. Answers the
members that were removed, and those that were dropped because of this limit.
"""


ADD_LOGS: Final = _script("""
local logs, by_level, ttl = KEYS[1], KEYS[2], tonumber(ARGV[1])
local level_limit, limit = tonumber(ARGV[2]), tonumber(ARGV[3])
local touched = {}
for i = 4, #ARGV, 3 do
  local level, prefix = ARGV[i], ARGV[i + 1]
  local stored = redis.call('ZRANGEBYLEX', logs, '[' .. prefix, '[' .. prefix .. '\\255', 'LIMIT', 0, 1)
  if #stored == 0 then
    redis.call('ZADD', logs, 0, prefix .. level .. ARGV[i + 2])
    redis.call('ZADD', by_level, 0, level .. prefix)
    touched[level] = true
  end
end
for level, _ in pairs(touched) do
  local low, high = '[' .. level, '[' .. level .. '\\255'
  local surplus = redis.call('ZLEXCOUNT', by_level, low, high) - level_limit
  if surplus > 0 then
    for _, member in ipairs(redis.call('ZRANGEBYLEX', by_level, low, high, 'LIMIT', 0, surplus)) do
      local prefix = string.sub(member, 21)
      redis.call('ZREMRANGEBYLEX', logs, '[' .. prefix, '[' .. prefix .. '\\255')
      redis.call('ZREM', by_level, member)
    end
  end
end
local surplus = redis.call('ZCARD', logs) - limit
if surplus > 0 then
  for _, member in ipairs(redis.call('ZRANGE', logs, 0, surplus - 1)) do
    redis.call('ZREM', logs, member)
    redis.call('ZREM', by_level, string.sub(member, 41, 60) .. string.sub(member, 1, 40))
  end
end
if ttl > 0 then
  redis.call('PEXPIRE', logs, ttl)
  redis.call('PEXPIRE', by_level, ttl)
end
return 0
""")
"""Adds log records, each as the digest of its level, its sortable id, and its text.

A stored id is kept. Arguments: time to live, and the numbers of records that are kept per level and
per run.
"""


ADD_CONTRIBUTIONS: Final = _script("""
local key, ttl, limit = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local size, dropped = redis.call('HLEN', key), 0
for i = 3, #ARGV, 2 do
  local field, text = ARGV[i], ARGV[i + 1]
  local stored = redis.call('HGET', key, field)
  if not stored and size >= limit then
    dropped = dropped + 1
  elseif not stored or string.sub(stored, 1, 16) < string.sub(text, 1, 16) then
    redis.call('HSET', key, field, text)
    if not stored then size = size + 1 end
  end
end
if ttl > 0 then redis.call('PEXPIRE', key, ttl) end
return dropped
""")
"""Stores contributions, each as its field and its text, which starts with its sequence number.

Arguments: time to live, and the number of contributions that are kept. Answers the number of
contributions that were dropped because of this limit.
"""


DROP_CONTRIBUTIONS: Final = _script("""#!lua flags=allow-oom
for i = 1, #ARGV, 2 do
  local stored = redis.call('HGET', KEYS[1], ARGV[i])
  if stored and string.sub(stored, 1, 16) <= ARGV[i + 1] then redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return 0
""")
"""Deletes contributions, each as its field and the highest sequence number to delete."""


SET_RUN_VALUES: Final = _script("""
local levels, meta, ttl = KEYS[1], KEYS[2], tonumber(ARGV[1])
local has_run = redis.call('EXISTS', levels) == 1
local is_new = 0
for i = 2, #ARGV, 3 do
  local rule, field, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if has_run then
    if rule == 'first' then
      is_new = is_new + redis.call('HSETNX', meta, field, value)
    elseif rule == 'set' then
      redis.call('HSET', meta, field, value)
    else
      local stored = redis.call('HGET', meta, field)
      if not stored or stored < value then redis.call('HSET', meta, field, value) end
    end
  end
end
if has_run and ttl > 0 then redis.call('PEXPIRE', meta, ttl) end
return is_new
""")
"""Sets values of a run that exists, each as a rule, a field and a value.

Rules: 'first' keeps a stored value, 'set' replaces it, and 'highest' keeps the higher text. Answers
the number of new values with the rule 'first'.
"""


_DROP_ENTRY: Final = """
local function drop_entry(run, stored)
  local entry = cjson.decode(string.sub(stored, 49))
  local place = string.sub(stored, 17, 32)
  redis.call('ZREM', KEYS[6], entry.id .. place .. run)
  redis.call('ZREM', KEYS[5], run)
  entry.is_member = false
  if entry.batch then
    local member = entry.batch .. entry.status .. (entry['end'] or place) .. run
    entry.is_member = redis.call('ZREM', KEYS[9], member) == 1
  end
  if entry['end'] then
    redis.call('ZREM', KEYS[7], entry['end'] .. run)
    redis.call('ZREM', KEYS[8], entry.type .. entry['end'] .. run)
    redis.call('ZREM', KEYS[10], run)
  end
  return entry
end
"""
"""Keys: meta, revision, order, runs, active, ids, ended, types, members, expiry."""


FEED: Final = _script(
    _NOW
    + _DROP_ENTRY
    + """
local meta, revision, order, runs, active, ids = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local ended, types, members, expiry, feed = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local last = #ARGV
if KEYS[12] then
  local lease = redis.call('GET', KEYS[12])
  if not lease or string.sub(lease, 1, 16) ~= ARGV[last] then return {'fenced'} end
  last = last - 1
end
local schema = redis.call('HGET', meta, 'schema')
if schema and schema ~= ARGV[1] then return {'schema', schema} end
if not schema then redis.call('HSET', meta, 'schema', ARGV[1], 'id', ARGV[2]) end
local now = now_us(ARGV[3])
local checked, duplicates = {}, {}
if ARGV[6] ~= '' then checked = cjson.decode(ARGV[6]) end
-- Other processes with an active run of the same id.
local function find_owners(run, entry)
  local low, high, found = '[' .. entry.id, '[' .. entry.id .. '\\255', {}
  local left_out = {[entry.instance] = true}
  for _, owner in ipairs(checked[run]) do left_out[owner] = true end
  for _, member in ipairs(redis.call('ZREVRANGEBYLEX', ids, high, low, 'LIMIT', 0, DUPLICATE_RUNS)) do
    local other = string.sub(member, 37)
    if other ~= run and redis.call('ZSCORE', active, other) then
      local stored = redis.call('HGET', runs, other)
      local owner = stored and cjson.decode(string.sub(stored, 49)).instance
      if owner and not left_out[owner] then found[#found + 1] = owner end
    end
  end
  return found
end
for i = 7, last, 3 do
  local run, sequence, text = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local stored = redis.call('HGET', runs, run)
  local is_superseded = stored and string.find(stored, '"superseded":', 49, true)
  local owners = {}
  if checked[run] and (not stored or string.sub(stored, 1, 1) == ' ') then
    owners = find_owners(run, cjson.decode(text))
  end
  if #owners > 0 then
    duplicates[run] = owners
  elseif not is_superseded and (not stored or string.sub(stored, 1, 16) < sequence) then
    local at, place = now, nil
    if stored then
      at, place = string.sub(stored, 33, 48), string.sub(stored, 17, 32)
    else
      place = string.format('%016d', redis.call('INCR', order))
    end
    if not stored or string.sub(stored, 49) ~= text then
      local entry, old = cjson.decode(text), nil
      if stored then old = drop_entry(run, stored) end
      local is_detached = old and old.batch and old.batch == entry.batch and not old.is_member
      redis.call('ZADD', ids, 0, entry.id .. place .. run)
      if entry['end'] then
        redis.call('ZADD', ended, 0, entry['end'] .. run)
        redis.call('ZADD', types, 0, entry.type .. entry['end'] .. run)
        redis.call('ZADD', expiry, now, run)
      else
        redis.call('ZADD', active, place, run)
      end
      if entry.batch and not is_detached then
        redis.call('ZADD', members, 0, entry.batch .. entry.status .. (entry['end'] or place) .. run)
      end
    end
    redis.call('HSET', runs, run, sequence .. place .. at .. text)
  end
end
local number = redis.call('GET', revision) or '0'
if ARGV[5] ~= '' then
  local changed = ARGV[5]
  if ARGV[6] ~= '' then
    local kept = {}
    for _, run in ipairs(cjson.decode(changed)) do
      if not duplicates[run] and redis.call('HEXISTS', runs, run) == 1 then kept[#kept + 1] = run end
    end
    changed = #kept > 0 and cjson.encode(kept) or '[]'
  end
  number = redis.call('INCR', revision)
  redis.call('XADD', feed, 'MAXLEN', '~', ARGV[4], '*', 'v', number, 'r', changed)
end
local answer = {'ok', redis.call('HGET', meta, 'id'), tostring(number)}
if next(duplicates) then answer[4] = cjson.encode(duplicates) end
return answer
""".replace("DUPLICATE_RUNS", str(MAX_DUPLICATE_RUNS))
)
"""Registers runs in the indexes, and adds one entry to the feed.

Arguments: schema version, id for a new journal, time ('' for that of the server), length of the
feed, JSON array of the changed runs ('' for none), JSON object of the runs to check ('' for none),
and for each run its id, the sequence of its root and its index entry. A run to check is not
registered, and not added to the feed, if another process has an active run with the same operation
id. The object has the processes that are not searched. Answers the id of the journal, the
revision, and the other processes of such runs as JSON, if there are any. A superseded run does not
change any more. With the key of a lease, its fence is the last argument. Answers 'fenced' without a
change if the lease has another owner.
"""


DELETE_RUN: Final = _script(
    "#!lua flags=allow-oom\n"
    + _DROP_ENTRY
    + """
local runs, run, fence = KEYS[4], ARGV[1], ARGV[2]
if fence ~= '' then
  local lease = redis.call('GET', KEYS[14])
  if not lease or string.sub(lease, 1, #fence) ~= fence then return {'fenced'} end
end
local stored = redis.call('HGET', runs, run)
if not stored then return {'missing'} end
local entry = drop_entry(run, stored)
redis.call('HDEL', runs, run)
if entry['end'] and entry.is_member then
  redis.call('HINCRBY', KEYS[11], entry.batch .. entry.status, 1)
  redis.call('ZADD', KEYS[12], 0, entry.batch .. entry['end'] .. run)
  local low, high = '[' .. entry.batch, '[' .. entry.batch .. '\\255'
  local surplus = redis.call('ZLEXCOUNT', KEYS[12], low, high) - tonumber(ARGV[3])
  if surplus > 0 then
    local oldest = redis.call('ZRANGEBYLEX', KEYS[12], low, high, 'LIMIT', 0, surplus)
    redis.call('ZREM', KEYS[12], unpack(oldest))
  end
end
local unreferenced = {}
for i = 4, #ARGV, 2 do
  redis.call('ZREM', KEYS[13], ARGV[i] .. ARGV[i + 1])
end
for i = 4, #ARGV, 2 do
  local location = ARGV[i]
  local low, high = '[' .. location, '[' .. location .. '\\255'
  if #redis.call('ZRANGEBYLEX', KEYS[13], low, high, 'LIMIT', 0, 1) == 0 then
    unreferenced[#unreferenced + 1] = location
  end
end
return {'deleted', unpack(unreferenced)}
"""
)
"""Deletes a run from the indexes, and adds it to the tally of its batch.

Keys: those of the entry, tallies, tally ends, locations, lease. Arguments: run, fence of the lease
('' for none), number of ends per batch, and for each preview the digest of its location and the
rest of its reference. Answers the digests of the locations that nothing refers to any more.
"""


CHANGE_REFERENCES: Final = _script("""
local locations = KEYS[1]
for i = 1, #ARGV, 3 do
  if ARGV[i] == '+' then
    redis.call('ZADD', locations, 0, ARGV[i + 1] .. ARGV[i + 2])
  else
    redis.call('ZREM', locations, ARGV[i + 1] .. ARGV[i + 2])
  end
end
local unreferenced = {}
for i = 1, #ARGV, 3 do
  local location = ARGV[i + 1]
  local low, high = '[' .. location, '[' .. location .. '\\255'
  if ARGV[i] == '-' and #redis.call('ZRANGEBYLEX', locations, low, high, 'LIMIT', 0, 1) == 0 then
    unreferenced[#unreferenced + 1] = location
  end
end
return unreferenced
""")
"""Adds ('+') and removes ('-') references to the content of previews.

Each is a sign, the digest of the location, and the rest of the reference. Answers the digests of
removed locations that nothing refers to any more.
"""


BEAT: Final = _script(
    _NOW
    + """
local last = redis.call('GET', KEYS[1])
local text = now_us(ARGV[2]) .. ARGV[1]
if tonumber(ARGV[3]) > 0 then
  redis.call('SET', KEYS[1], text, 'PX', ARGV[3])
else
  redis.call('SET', KEYS[1], text)
end
if ARGV[4] ~= '' then
  local prefix = string.sub(ARGV[4], 1, 16)
  if #redis.call('ZRANGEBYLEX', KEYS[2], '[' .. prefix, '[' .. prefix .. '\\255', 'LIMIT', 0, 1) == 0 then
    redis.call('ZADD', KEYS[2], 0, ARGV[4])
  end
  local surplus = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[5])
  if surplus > 0 then redis.call('ZREMRANGEBYRANK', KEYS[2], 0, surplus - 1) end
end
if tonumber(ARGV[3]) > 0 then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
return last
"""
)
"""Stores the heartbeat of a process, and a resource sample ('' for none).

Keys: heartbeat, samples. Arguments: text, time ('' for that of the server), time to live in
milliseconds, sample, and number of samples that are kept. Answers the previous heartbeat.
"""


ADD_TRAJECTORIES: Final = _script("""
local data, keys, owners, number, runs = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local key_limit, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
local function drop(member)
  redis.call('ZREM', data, member)
  redis.call('ZREM', owners, string.sub(member, 77, 96) .. string.sub(member, 1, 56))
end
for i = 3, #ARGV, 4 do
  local key, identity, run, text = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local low, high = '[' .. key, '[' .. key .. '\\255'
  local stored = redis.call('ZRANGEBYLEX', data, low, high)
  local is_stored = false
  for _, member in ipairs(stored) do
    if string.sub(member, 57, 76) == identity then is_stored = true end
  end
  if not is_stored then
    local entry = redis.call('HGET', runs, run)
    local owner = '                    '
    if entry then owner = cjson.decode(string.sub(entry, 49)).id end
    local place = redis.call('INCR', number)
    local head = key .. string.format('%016d', place)
    redis.call('ZADD', data, 0, head .. identity .. owner .. text)
    redis.call('ZADD', owners, 0, owner .. head)
    redis.call('ZADD', keys, place, key)
    for j = 1, #stored + 1 - key_limit do drop(stored[j]) end
  end
end
while redis.call('ZCARD', data) > limit do
  local key = redis.call('ZRANGE', keys, 0, 0)[1]
  if not key then break end
  local low, high = '[' .. key, '[' .. key .. '\\255'
  for _, member in ipairs(redis.call('ZRANGEBYLEX', data, low, high)) do drop(member) end
  redis.call('ZREM', keys, key)
end
return 0
""")
"""Adds trajectories, each as the digests of its key (40 characters), its identity, run and text.

A stored identity is kept. Arguments: trajectories that are kept per key, and of all keys.
"""


DELETE_TRAJECTORIES: Final = _script("""#!lua flags=allow-oom
local data, owners, owner = KEYS[1], KEYS[2], ARGV[1]
for _, found in ipairs(redis.call('ZRANGEBYLEX', owners, '[' .. owner, '[' .. owner .. '\\255')) do
  local head = string.sub(found, 21)
  redis.call('ZREMRANGEBYLEX', data, '[' .. head, '[' .. head .. '\\255')
  redis.call('ZREM', owners, found)
end
return 0
""")
"""Deletes the trajectories of an operation. Argument: digest of its id."""


MERGE_TOTALS: Final = _script("""
local group, version, ttl = KEYS[1], ARGV[1], tonumber(ARGV[2])
local marker = ARGV[3]
if (redis.call('HGET', group, marker) or '') ~= version then return 0 end
local count = tonumber(ARGV[4])
local removed = {}
for i = 5, 4 + count do
  if redis.call('HEXISTS', group, ARGV[i] .. marker) == 0 then return 0 end
  removed[ARGV[i]] = true
end
if count > 0 then
  for _, field in ipairs(redis.call('HKEYS', group)) do
    local at = string.find(field, marker, 1, true)
    if at and removed[string.sub(field, 1, at - 1)] then redis.call('HDEL', group, field) end
  end
end
for i = 5 + count, #ARGV, 2 do redis.call('HSET', group, marker .. ARGV[i], ARGV[i + 1]) end
if ttl > 0 then redis.call('PEXPIRE', group, ttl) end
return 1
""")
"""Replaces processes of a group by sums, if the version of the sums is the expected one.

A field is the process, the marker and the series. The process of the sums is empty.
"""


SWAP: Final = _script("""
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if (stored or '') ~= ARGV[2] then return {'0', stored or ''} end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
return {'1', ''}
""")
"""Replaces a field of a hash if it has the expected value ('' for missing).

Answers '1', or '0' with the stored value.
"""


ACQUIRE_LEASE: Final = _script("""
local stored = redis.call('GET', KEYS[1])
local owner, ttl = ARGV[1], ARGV[2]
if stored and string.sub(stored, 18) == owner then
  redis.call('PEXPIRE', KEYS[1], ttl)
  return string.sub(stored, 1, 16)
end
if stored then return '' end
local fence = string.format('%016d', redis.call('INCR', KEYS[2]))
redis.call('SET', KEYS[1], fence .. ' ' .. owner, 'PX', ttl)
return fence
""")
"""Acquires or renews a lease. Answers its fence, or '' if another process has it.

Keys: lease, number of the last fence. The fence increases with each owner.
"""


RELEASE_LEASE: Final = _script("""#!lua flags=allow-oom
local stored = redis.call('GET', KEYS[1])
if stored and string.sub(stored, 18) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
""")
"""Releases a lease of an owner."""


REFRESH: Final = _script("""#!lua flags=allow-oom
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[1]) end
return 0
""")
"""Renews the time to live of keys."""


READ_ROOTS: Final = _script("""#!lua flags=no-writes
local answer, fields = {}, ARGV
for index = 1, #KEYS, 2 do
  answer[#answer + 1] = redis.call('HGET', KEYS[index], '')
  answer[#answer + 1] = redis.call('HMGET', KEYS[index + 1], unpack(fields))
end
return answer
""")
"""Reads the operations of many runs, without the levels below them.

Keys: those of the levels and of the meta of each run. Arguments: fields of the meta. Not for a
cluster, where the keys are in several slots.
"""


ALL: Final = (
    WRITE_RUN, SUPERSEDE_RUN, ADD_KEYS, DELETE_KEYS, ADD_RECORDS, ADD_LOGS, ADD_CONTRIBUTIONS,
    DROP_CONTRIBUTIONS, SET_RUN_VALUES, FEED, DELETE_RUN, CHANGE_REFERENCES, BEAT, ADD_TRAJECTORIES,
    DELETE_TRAJECTORIES, MERGE_TOTALS, SWAP, ACQUIRE_LEASE, RELEASE_LEASE, REFRESH, READ_ROOTS,
)  # fmt: skip
"""All scripts."""
