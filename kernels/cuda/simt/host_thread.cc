#include "kernels/cuda/simt/host_thread.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/base/check.h"

namespace thermocline {

void HostThread::Fail(const char* mistake) const {
  const std::string text =
      fmt::format("block {} warp {} lane {}: {}", block_.index, warp(), lane(), mistake);
  CheckFailed(text.c_str(), __FILE__, __LINE__);
}

void HostThread::Arrive(const char* what, int line) const {
  if (warp_.arrived > 0 && (std::strcmp(warp_.what, what) != 0 || warp_.line != line)) {
    Fail(fmt::format("lanes diverge: it comes for {} (line {}) where others wait for {} (line {})",
                     what, line, warp_.what, warp_.line)
             .c_str());
  }
  warp_.what = what;
  warp_.line = line;
  warp_.waiting |= 1U << lane();
  ++warp_.arrived;
}

void HostThread::SyncThreads() const {
  const int64_t generation = block_.generation;
  if (++block_.arrived == grid_.num_threads_) {
    block_.arrived = 0;
    ++block_.generation;
    grid_.num_idle_ = 0;
  }
  while (block_.generation == generation) {
    grid_.Yield();
  }
}

uint32_t HostThread::Ballot(bool x, int line) const {
  const uint32_t mine = x ? 1 : 0;
  std::memcpy(warp_.values[lane()], &mine, sizeof(mine));
  Meet("Ballot", line, [&] {
    uint32_t all = 0;
    for (int l = 0; l < 32; ++l) {
      uint32_t bit = 0;
      std::memcpy(&bit, warp_.values[l], sizeof(bit));
      all |= bit << l;
    }
    for (auto& value : warp_.values) {
      std::memcpy(value, &all, sizeof(all));
    }
  });
  uint32_t all = 0;
  std::memcpy(&all, warp_.values[lane()], sizeof(all));
  return all;
}

void HostThread::ExchangeBytes(const char* what, int line) const {
  Meet(what, line, [&] {
    std::byte before[32][8];
    for (int l = 0; l < 32; ++l) {
      std::memcpy(before[l], warp_.values[l], 8);
    }
    for (auto& value : warp_.values) {
      int from = 0;
      std::memcpy(&from, value + 8, sizeof(from));
      std::memcpy(value, before[from], 8);
    }
  });
}

// Register r of `a` holds row lane / 4 + 8 (r % 2), columns 16 (r / 2) + 4 (lane % 4) ..; of `b`,
// register r holds rows 16 r + 4 (lane % 4) .. of column lane / 4; of the sums, element i is row
// lane / 4 + 8 (i / 2), column 2 (lane % 4) + i % 2.
void HostThread::MultiplyBytes(bool a_has_sign, int32_t (&sums)[4], const uint32_t (&a)[4],
                               uint32_t b0, uint32_t b1, int line) const {
  const uint32_t operands[6] = {a[0], a[1], a[2], a[3], b0, b1};
  auto& values = warp_.values;
  std::memcpy(values[lane()], operands, sizeof(operands));
  Meet(a_has_sign ? "Multiply<int8_t>" : "Multiply<uint8_t>", line, [&] {
    uint8_t bytes[16][32];
    int8_t columns[8][32];
    for (int l = 0; l < 32; ++l) {
      for (int r = 0; r < 4; ++r) {
        std::memcpy(&bytes[l / 4 + 8 * (r % 2)][16 * (r / 2) + 4 * (l % 4)], values[l] + 4 * r, 4);
      }
      std::memcpy(&columns[l / 4][4 * (l % 4)], values[l] + 16, 4);
      std::memcpy(&columns[l / 4][16 + 4 * (l % 4)], values[l] + 20, 4);
    }
    int16_t rows[16][32];
    for (int i = 0; i < 16 * 32; ++i) {
      const uint8_t byte = bytes[i / 32][i % 32];
      rows[i / 32][i % 32] = a_has_sign ? static_cast<int8_t>(byte) : int16_t{byte};
    }
    for (int i = 0; i < 4 * 32; ++i) {
      int32_t sum = 0;
      for (int k = 0; k < 32; ++k) {
        sum += rows[i / 16 + 8 * (i / 2 % 2)][k] * columns[i / 4 % 4 * 2 + i % 2][k];
      }
      std::memcpy(values[i / 4] + i % 4 * 4, &sum, sizeof(sum));
    }
  });
  int32_t products[4];
  std::memcpy(products, values[lane()], sizeof(products));
  for (int i = 0; i < 4; ++i) {
    sums[i] += products[i];
  }
}

// Register r of `a` holds row lane / 4 + 8 (r % 2), columns 8 (r / 2) + 2 (lane % 4) and the next,
// the first one in the low bits; of `b`, register r holds rows 8 r + 2 (lane % 4) and the next of
// column lane / 4. The sums lie as those of bytes.
void HostThread::MultiplyHalves(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                int line) const {
  const uint32_t operands[6] = {a[0], a[1], a[2], a[3], b0, b1};
  auto& values = warp_.values;
  std::memcpy(values[lane()], operands, sizeof(operands));
  Meet("MultiplyHalves", line, [&] {
    double rows[16][16];
    double columns[8][16];
    for (int l = 0; l < 32; ++l) {
      uint16_t halves[12];
      std::memcpy(halves, values[l], sizeof(halves));
      for (int i = 0; i < 8; ++i) {
        const int r = i / 2;
        rows[l / 4 + 8 * (r % 2)][8 * (r / 2) + 2 * (l % 4) + i % 2] = HalfToFloat(halves[i]);
      }
      for (int i = 0; i < 4; ++i) {
        columns[l / 4][8 * (i / 2) + 2 * (l % 4) + i % 2] = HalfToFloat(halves[8 + i]);
      }
    }
    for (int i = 0; i < 4 * 32; ++i) {
      double sum = 0;
      for (int k = 0; k < 16; ++k) {
        sum += rows[i / 16 + 8 * (i / 2 % 2)][k] * columns[i / 4 % 4 * 2 + i % 2][k];
      }
      const auto rounded = static_cast<float>(sum);
      std::memcpy(values[i / 4] + i % 4 * 4, &rounded, sizeof(rounded));
    }
  });
  float products[4];
  std::memcpy(products, values[lane()], sizeof(products));
  for (int i = 0; i < 4; ++i) {
    sums[i] += products[i];
  }
}

void HostThread::InitCopies(uint64_t* barriers, int num_stages) {
  Require(std::bit_cast<uintptr_t>(barriers) % 8 == 0, "barriers are not aligned");
  num_stages_ = num_stages;
}

void HostThread::BeginStage(int stage, uint32_t bytes) {
  Require(stage >= 0 && stage < num_stages_, "a stage that InitCopies did not prepare is begun");
  std::vector<HostGrid::Copy>& copies = warp_.copies;
  if (num_begun_ == warp_.num_begun) {  // the first lane to come, whatever the others still do
    Require(std::none_of(copies.begin(), copies.end(),
                         [&](const auto& copy) { return copy.stage == stage; }),
            "a stage is begun anew before its copy was waited for");
    copies.push_back({.stage = stage, .bytes = bytes, .number = warp_.num_begun, .parts = {}});
    ++warp_.num_begun;
  } else {
    Require(num_begun_ + static_cast<int64_t>(copies.size()) >= warp_.num_begun,
            "a copy is begun that was ended already");
    const auto& copy = copies[copies.size() - static_cast<size_t>(warp_.num_begun - num_begun_)];
    Require(copy.stage == stage && copy.bytes == bytes, "lanes diverge: they begin other stages");
  }
  ++num_begun_;
  num_runs_ = 0;
}

void HostThread::CopyParts(int stage, int num_parts, std::byte* to, uint32_t to_stride,
                           const std::byte* from, uint32_t from_stride, uint32_t part_bytes) {
  std::vector<HostGrid::Copy>& copies = warp_.copies;
  const int64_t newer = warp_.num_begun - num_begun_;
  Require(num_begun_ > 0 && newer < static_cast<int64_t>(copies.size()),
          "parts of a stage that was not begun are copied");
  HostGrid::Copy& copy = copies[copies.size() - 1 - static_cast<size_t>(newer)];
  Require(copy.stage == stage, "parts of a stage that was not begun are copied");
  Require(num_parts > 0 && num_parts <= 32 && part_bytes > 0, "a run has 1 to 32 parts");
  Require((std::bit_cast<uintptr_t>(to) | std::bit_cast<uintptr_t>(from) | part_bytes |
           (num_parts > 1 ? to_stride | from_stride : 0U)) %
                  16 ==
              0,
          "a copy is not aligned to 16 bytes");
  const std::byte* end = block_.shared + grid_.shared_bytes_;
  Require(to >= block_.shared && to + uint64_t(num_parts - 1) * to_stride + part_bytes <= end,
          "a copy goes behind shared memory");
  if (num_runs_ == copy.num_runs) {
    for (int i = 0; i < num_parts; ++i) {
      const auto part = static_cast<size_t>(i);
      copy.parts.push_back({to + part * to_stride, from + part * from_stride, part_bytes});
      std::memset(copy.parts.back().to, HostGrid::kPoison, part_bytes);
    }
    copy.part_bytes += static_cast<uint32_t>(num_parts) * part_bytes;
    ++copy.num_runs;
  } else {
    Require(std::any_of(copy.parts.begin(), copy.parts.end(),
                        [&](const auto& part) {
                          return part.to == to && part.from == from && part.bytes == part_bytes;
                        }),
            "lanes diverge: they copy other parts");
  }
  ++num_runs_;
}

void HostThread::CommitStage(int stage) const {
  const int64_t newer = warp_.num_begun - num_begun_;
  Require(num_begun_ > 0 && newer < static_cast<int64_t>(warp_.copies.size()),
          "a stage that was not begun is committed");
  const HostGrid::Copy& copy = warp_.copies[warp_.copies.size() - 1 - static_cast<size_t>(newer)];
  Require(copy.stage == stage, "a stage that was not begun is committed");
  // Else the barrier opens too soon, or never.
  Require(copy.bytes == copy.part_bytes, "a stage's parts do not add up to its bytes");
}

void HostThread::NoCopy() {
  if (num_begun_ == warp_.num_begun) {
    warp_.copies.push_back({.stage = -1, .bytes = 0, .number = warp_.num_begun, .parts = {}});
    ++warp_.num_begun;
  } else {
    const auto newer = static_cast<size_t>(warp_.num_begun - num_begun_);
    Require(newer > warp_.copies.size() || warp_.copies[warp_.copies.size() - newer].stage < 0,
            "lanes diverge: some begin a stage where others have none");
  }
  ++num_begun_;
}

void HostThread::End(int stage, size_t behind, int line) const {
  Meet("EndCopy", line, [&] {
    std::vector<HostGrid::Copy>& copies = warp_.copies;
    while (!copies.empty() && copies.front().stage < 0) {
      copies.erase(copies.begin());
    }
    // cp.async.wait_group counts groups, a barrier knows its stage: both must be right.
    Require(std::any_of(copies.begin(), copies.end(),
                        [&](const auto& copy) { return copy.stage == stage; }),
            "a copy that was never begun is waited for");
    Require(copies.front().stage == stage, "copies are waited for in another order than begun");
    Require(copies.size() > behind, "a wait is a copy too few: the one it is for may go on");
    for (const HostGrid::Part& part : copies.front().parts) {
      std::memcpy(part.to, part.from, part.bytes);
    }
    copies.erase(copies.begin());
  });
}

const HostGrid::Copy* HostThread::CopyInto(const std::byte* at, size_t bytes) const {
  for (const HostGrid::Copy& copy : warp_.copies) {
    for (const HostGrid::Part& part : copy.parts) {
      if (at < part.to + part.bytes && part.to < at + bytes) {
        return &copy;
      }
    }
  }
  return nullptr;
}

void HostThread::CheckShared(const std::byte* at, size_t bytes) const {
  Require(at >= block_.shared && at + bytes <= block_.shared + grid_.shared_bytes_,
          "an access to shared memory lies outside it");
  if (const HostGrid::Copy* copy = CopyInto(at, bytes); copy != nullptr) {
    Fail(copy->number >= num_begun_ ? "a stage is begun anew before this lane has read it"
                                    : "a stage is read whose copy was not waited for");
  }
}

}  // namespace thermocline
