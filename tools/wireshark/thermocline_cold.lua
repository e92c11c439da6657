-- What is said to cold nodes, for thermocline.lua, written from net/COLD.md.
--
-- Owns the fields, requests and replies of the operations 32 to 42. Never registers anything: loaded by itself, as
-- Wireshark does with each file of its folder, it does nothing. Invariant: bodies are read through the cursor that the
-- caller gives, so that a short one is marked and raises no Lua error.

local cold = {}

-- Declares the fields that only cold nodes have.
function cold.fields(field)
  for name, kind in ("disk:uint16 bucket:uint32 window_from:uint64 window_days:uint32 window_generation:uint32 tablet_group:uint16 "
    .. "file:uint32 file_generation:uint32 offset:uint32 content_bytes:uint32 number:uint32 section_count:uint32 state:uint8 "
    .. "block_offset:uint32 block_bytes:uint32 record_count:uint32 data_bytes:uint32 index_bytes:uint32 checksum:bytes "
    .. "digest:bytes content:bytes file_count:uint32 file_bytes:uint32 generation:uint32 head:uint32 freed_bytes:uint16 "
    .. "reserved_count:uint16 freed:bytes bytes:uint32"):gmatch("(%S+):(%S+)") do
    field(kind, "cold_" .. name, "Cold " .. name)
  end
end

local WINDOW = "group:2 cold_disk:2 cold_bucket:4 cold_window_from:8 cold_window_days:4 cold_window_generation:4 "

-- Fields of a table, name:bytes each; "-" is reserved.
local function numbers(c, tree, fields)
  local found = {}
  for name, count in fields:gmatch("(%S+):(%d+)") do
    count = tonumber(count)
    if name == "-" then c:reserved(tree, count) else found[name] = c:number(tree, name, count) end
  end
  return found
end

local function cold_at(fields)
  return function(c, tree)
    local found = numbers(c, tree, WINDOW .. fields)
    return string.format(" disk %d, file %d at %d", found.cold_disk, found.cold_file, found.cold_offset)
  end
end
local cold_place = cold_at("cold_tablet_group:2 -:2 cold_file:4 cold_file_generation:4 cold_offset:4 cold_content_bytes:4 "
  .. "cold_number:4 cold_section_count:4")
local cold_block = cold_at("cold_file:4 cold_file_generation:4 cold_offset:4 cold_block_offset:4 cold_block_bytes:4 -:4")
local function cold_read(fields)
  return function(c, tree)
    local found = numbers(c, tree, "space:2 stream_bytes:1 " .. fields)
    return cold_block(c, tree) .. " " .. tostring(c:stream(tree, "stream", found.stream_bytes))
  end
end

-- Where a record lies: the block, and the three nodes that have it.
function cold.redirect(c, tree)
  local text = cold_block(c, tree)
  for copy = 1, 3 do
    local branch, finish = c:branch(tree, "Copy " .. copy)
    c:bytes(branch, "address", 16)
    c:number(branch, "port", 2)
    c:reserved(branch, 2)
    finish()
  end
  return text
end

-- Adds how bodies are shown, by the code of their operation: of requests, and of Ok replies behind their head. ColdGet
-- and ColdScan have the replies of Get and Scan.
function cold.bodies(requests, oks)
  requests[32] = function(c, tree) return numbers(c, tree, "op_flags:1 -:3") and cold_place(c, tree) end
  requests[33] = function(c, tree)
    local text = numbers(c, tree, "at:4 -:4") and cold_place(c, tree)
    c:bytes(tree, "cold_content", c:left())
    return text
  end
  requests[34] = function(c, tree)
    c:bytes(tree, "cold_checksum", 16)
    return cold_place(c, tree)
  end
  requests[35] = cold_place
  requests[36] = cold_read("-:5 time:8")
  requests[37] = cold_read("op_flags:1 record_limit:4 from:8 to:8 byte_limit:4 -:4")
  requests[38] = function(c, tree)
    return " disk " .. numbers(c, tree, "group:2 cold_disk:2 cold_file:4 cold_offset:4 record_limit:4").cold_disk
  end
  requests[39], requests[40] = cold_block, cold_block
  requests[41] = function(c, tree)
    return " disk " .. numbers(c, tree, "group:2 cold_disk:2 cold_file:4 record_limit:4 op_flags:1 -:3").cold_disk
  end
  requests[42] = function(c, tree)
    local found = numbers(c, tree, "group:2 cold_disk:2 cold_file:4 cold_file_generation:4 cold_offset:4 cold_bytes:4 -:4")
    return string.format(" disk %d, file %d at %d", found.cold_disk, found.cold_file, found.cold_offset)
  end

  oks[32] = function(c, tree) return numbers(c, tree, "cold_state:1 -:3") and cold_place(c, tree) end
  oks[33] = function() return "" end
  oks[34] = function(c, tree)
    c:bytes(tree, "cold_checksum", 16)
    return ""
  end
  oks[35] = function(c, tree) return " " .. numbers(c, tree, "count:4 -:4").count .. " sections" end
  oks[36], oks[37] = oks[3], oks[9]
  oks[38] = function(c, tree)
    local count = numbers(c, tree, "count:4 more:1 -:3 cold_file:4 cold_offset:4").count
    for index = 0, count - 1 do
      local branch, finish = c:branch(tree, "Place " .. index)
      branch:append_text((numbers(c, branch, "cold_state:1 -:3") and cold_place(c, branch)))
      finish()
    end
    return " " .. count .. " places"
  end
  oks[39] = function(c, tree)
    local found = numbers(c, tree, "cold_record_count:4 cold_data_bytes:4 cold_index_bytes:4 cold_number:4")
    c:bytes(tree, "cold_digest", 16)
    c:bytes(tree, "cold_content", found.cold_index_bytes)
    return " " .. found.cold_record_count .. " records"
  end
  oks[40] = function(c, tree)
    local block_bytes = numbers(c, tree, "cold_block_bytes:4 -:4").cold_block_bytes
    c:bytes(tree, "cold_content", block_bytes)
    return " " .. block_bytes .. " bytes"
  end
  oks[41] = function(c, tree)
    local count = numbers(c, tree, "count:4 more:1 cold_state:1 -:2 cold_file:4 cold_file_count:4 cold_file_bytes:4").count
    for index = 0, count - 1 do
      local branch, finish = c:branch(tree, "File " .. index)
      local of = numbers(c, branch, "cold_file:4 cold_generation:4 cold_head:4 cold_section_count:4 cold_freed_bytes:2 "
        .. "cold_reserved_count:2")
      c:bytes(branch, "cold_freed", of.cold_freed_bytes)
      for _ = 1, of.cold_reserved_count do
        numbers(c, branch, "cold_file_generation:4 cold_number:4 cold_section_count:4")
      end
      finish()
    end
    return " " .. count .. " files"
  end
  oks[42] = function(c, tree)
    local bytes = numbers(c, tree, "cold_bytes:4 -:4").cold_bytes
    c:bytes(tree, "cold_content", bytes)
    return " " .. bytes .. " bytes"
  end
end

return cold
