#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "engine/kv/kv_cache.h"
#include "engine/store/page_record.h"
#include "kernels/base/status.h"
#include "kernels/device.h"

namespace thermocline {

// Brings pages that a store has in formats which are no longer in force into those that are, by way
// of the hot tier: what was kept before a model was calibrated stays readable. Used by one thread
// at a time; the device outlives it.
class PageRecoder {
 public:
  // kResourceExhausted: there is no memory for two pages.
  static Result<std::unique_ptr<PageRecoder>> Create(Device& device, const KvLayout& layout,
                                                     KvFormats from, KvFormats to);

  // The bytes of a warm or cold page, and their checksum. False, and the page is as it was, when
  // they are not what its checksum says, or the device fails.
  bool Recode(StoredPage& page);

 private:
  PageRecoder(Device& device, KvCache from, KvCache to,
              const std::array<uint32_t, kNumTiers>& from_bytes,
              const std::array<uint32_t, kNumTiers>& to_bytes);

  Device& device_;
  std::unique_ptr<Stream> stream_;
  KvCache from_;  // a hot place, then one of any tier; `to_` too
  KvCache to_;
  std::array<uint32_t, kNumTiers> from_bytes_;  // of a page, by tier
  std::array<uint32_t, kNumTiers> to_bytes_;
};

}  // namespace thermocline
