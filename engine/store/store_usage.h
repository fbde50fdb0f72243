#pragma once

#include <cstdint>
#include <string>

namespace thermocline {

// What a BackingStore holds and has done.
struct StoreUsage {
  uint64_t num_pages = 0;  // those that could not be read too
  uint64_t num_memory_pages = 0;
  uint64_t memory_bytes = 0;
  uint64_t num_disk_pages = 0;  // files, those about to be removed too
  uint64_t disk_bytes = 0;
  uint64_t num_pending_writes = 0;  // files to write or remove, the one in work too
  uint64_t num_hits = 0;            // Gets that gave a page
  uint64_t num_misses = 0;          // Gets of what is not there
  uint64_t num_evictions = 0;       // pages that were lost to make room
  uint64_t num_write_errors = 0;    // pages that could not be written, files not removed
  uint64_t num_damaged = 0;         // copies found damaged, at start or by Get
  bool disk_failing = false;        // the latest write failed
  std::string last_error;           // the latest failure's message; empty: there was none
};

}  // namespace thermocline
