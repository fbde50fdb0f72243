#pragma once

#include <string>

#include "tests/testing/memory_checkpoint.h"

namespace thermocline {

// A small vocabulary that is whole: all 256 bytes (token id = byte), merges for "hello" and " the",
// two control tokens and two user-defined ones. Tests break it or add to it.
MemoryCheckpoint TestVocabulary();

// Appends a token; its id.
int64_t AddToken(MemoryCheckpoint& checkpoint, const std::string& name, int64_t type);

}  // namespace thermocline
