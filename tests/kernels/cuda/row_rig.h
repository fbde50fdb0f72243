#pragma once

#include <cstring>
#include <vector>

#include "kernels/cuda/simt/host_grid.h"
#include "kernels/device.h"

namespace thermocline {

inline constexpr GridOrder kGridOrders[] = {{GridOrder::Kind::kForward},
                                            {GridOrder::Kind::kReverse},
                                            {GridOrder::Kind::kRandom, 1},
                                            {GridOrder::Kind::kRandom, 2}};

// For operations that are done at the return.
struct NoStream final : Stream {
  void Copy(std::byte* /*dst*/, const std::byte* /*src*/, size_t /*bytes*/) override {}
  Status Sync() override { return {}; }
};

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace thermocline
