#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels/core/half.h"
#include "kernels/cuda/simt/host_grid.h"

namespace thermocline {

// DeviceThread's methods (device_thread.cuh says what they mean) for a fiber of a HostGrid. Matrix
// products are computed from the fragment maps of the PTX manual. Collectives know the line that
// calls them: a warp's lanes must come from the same one.
class HostThread {
 public:
  HostThread(HostGrid& grid, HostGrid::Block& block, int thread)
      : grid_(grid),
        block_(block),
        warp_(block.warps[static_cast<size_t>(thread) / 32]),
        thread_(thread) {}

  int lane() const { return thread_ % 32; }
  int warp() const { return thread_ / 32; }
  int thread() const { return thread_; }
  int num_threads() const { return grid_.num_threads_; }
  int block() const { return block_.index; }
  int num_blocks() const { return static_cast<int>(grid_.block_order_.size()); }
  template <typename T>
  T* shared(uint32_t offset) const {
    Require(offset <= grid_.shared_bytes_, "shared memory behind its end is asked for");
    return reinterpret_cast<T*>(block_.shared + offset);
  }

  void SyncWarp(int line = __builtin_LINE()) const {
    Meet("SyncWarp", line, [] {});
  }
  void SyncThreads() const;
  template <typename T>
  T ShuffleXor(T x, int mask, int line = __builtin_LINE()) const {
    return Exchange("ShuffleXor", line, x, lane() ^ mask);
  }
  template <typename T>
  T ShuffleDown(T x, int delta, int line = __builtin_LINE()) const {
    return Exchange("ShuffleDown", line, x, lane() + delta < 32 ? lane() + delta : lane());
  }
  template <typename T>
  T Broadcast(T x, int lane, int line = __builtin_LINE()) const {
    return Exchange("Broadcast", line, x, lane % 32);
  }
  uint32_t Ballot(bool x, int line = __builtin_LINE()) const;

  template <typename T>
  static T AtomicAdd(T* to, std::type_identity_t<T> x) {
    const T before = *to;
    *to += x;
    return before;
  }
  static uint32_t AtomicMax(uint32_t* to, uint32_t x) {
    const uint32_t before = *to;
    *to = before > x ? before : x;
    return before;
  }
  static uint64_t AtomicMin(uint64_t* to, uint64_t x) {
    const uint64_t before = *to;
    *to = before < x ? before : x;
    return before;
  }

  static uint32_t Permute(uint32_t low, uint32_t high, uint32_t selector) {
    const uint64_t bytes = uint64_t{high} << 32 | low;
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i) {
      const uint32_t nibble = selector >> 4 * i & 0xfU;
      const auto byte = static_cast<uint32_t>(bytes >> 8 * (nibble & 7U) & 0xffU);
      result |= ((nibble & 8U) == 0 ? byte : byte >> 7 != 0 ? 0xffU : 0) << 8 * i;
    }
    return result;
  }
  static uint32_t Bits(float x) { return std::bit_cast<uint32_t>(x); }
  static float FloatOfBits(uint32_t bits) { return std::bit_cast<float>(bits); }

  static float Exp2(float x) { return std::exp2(x); }
  static float Log2(float x) { return std::log2(x); }
  static float Divide(float x, float y) { return x / y; }

  static float Add(float a, float b) { return a + b; }
  static float Multiply(float a, float b) { return a * b; }
  static float Fma(float a, float b, float c) { return std::fma(a, b, c); }
  static float DivideExactly(float x, float y) { return x / y; }
  static float SquareRoot(float x) { return std::sqrt(x); }
  static float RoundToWhole(float x) { return std::nearbyint(x); }
  static float HalfBits(uint32_t half) { return HalfToFloat(static_cast<uint16_t>(half)); }
  static uint32_t HalfOf(float x) { return FloatToHalf(x); }

  struct Words {
    uint32_t w[4];
  };
  struct WordPair {
    uint32_t w[2];
  };
  Words Load16(const std::byte* shared) const { return LoadShared<Words>(shared); }
  WordPair Load8(const std::byte* shared) const { return LoadShared<WordPair>(shared); }
  uint32_t Load4(const std::byte* shared) const { return LoadShared<uint32_t>(shared); }
  void Store16(std::byte* shared, const Words& x) const { StoreShared(shared, x); }
  void Store8(std::byte* shared, const WordPair& x) const { StoreShared(shared, x); }
  Words LoadGlobal16(const void* from) const { return Load<Words>(from); }
  WordPair LoadGlobal8(const void* from) const { return Load<WordPair>(from); }
  void StoreGlobal16(void* to, const Words& x) const { Store(to, x); }
  void StoreGlobal8(void* to, const WordPair& x) const { Store(to, x); }

  template <typename A>
  void Multiply(int32_t (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                int line = __builtin_LINE()) const {
    MultiplyBytes(std::is_signed_v<A>, sums, a, b0, b1, line);
  }
  // A sum is rounded once, where a GPU's order and rounding are its own.
  void MultiplyHalves(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                      int line = __builtin_LINE()) const;

  static void FenceCopies() {}
  void InitCopies(uint64_t* barriers, int num_stages);
  void BeginStage(int stage, uint32_t bytes);
  void CopyParts(int stage, int num_parts, std::byte* to, uint32_t to_stride, const std::byte* from,
                 uint32_t from_stride, uint32_t part_bytes);
  void CommitStage(int stage) const;
  void NoCopy();
  template <int kBehind>
  void EndCopy(int stage, int line = __builtin_LINE()) const {
    End(stage, kBehind, line);
  }
  void BeginCopy(int stage, std::byte* to, const std::byte* from, uint32_t bytes) {
    BeginStage(stage, bytes);
    CopyParts(stage, 1, to, 0, from, 0, bytes);
    CommitStage(stage);
  }

 private:
  [[noreturn]] void Fail(const char* mistake) const;
  void Require(bool holds, const char* mistake) const {
    if (!holds) {
      Fail(mistake);
    }
  }

  // The last lane to come runs `act`; all leave behind it.
  template <typename Act>
  void Meet(const char* what, int line, Act act) const {
    Arrive(what, line);
    const int64_t generation = warp_.generation;
    if (warp_.arrived == 32) {
      act();
      warp_.arrived = 0;
      warp_.waiting = 0;
      ++warp_.generation;
      grid_.num_idle_ = 0;
    }
    while (warp_.generation == generation) {
      grid_.Yield();
    }
  }
  void Arrive(const char* what, int line) const;

  template <typename T>
  T Exchange(const char* what, int line, T x, int from) const {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    std::memcpy(warp_.values[lane()], &x, sizeof(x));
    std::memcpy(warp_.values[lane()] + 8, &from, sizeof(from));
    ExchangeBytes(what, line);
    std::memcpy(&x, warp_.values[lane()], sizeof(x));
    return x;
  }
  void ExchangeBytes(const char* what, int line) const;
  void MultiplyBytes(bool a_has_sign, int32_t (&sums)[4], const uint32_t (&a)[4], uint32_t b0,
                     uint32_t b1, int line) const;
  void End(int stage, size_t behind, int line) const;

  template <typename T>
  T Load(const void* from) const {
    Require(std::bit_cast<uintptr_t>(from) % sizeof(T) == 0, "a load is not aligned");
    T x;
    std::memcpy(&x, from, sizeof(x));
    return x;
  }
  template <typename T>
  void Store(void* to, const T& x) const {
    Require(std::bit_cast<uintptr_t>(to) % sizeof(T) == 0, "a store is not aligned");
    std::memcpy(to, &x, sizeof(x));
  }
  template <typename T>
  T LoadShared(const std::byte* shared) const {
    CheckShared(shared, sizeof(T));
    return Load<T>(shared);
  }
  template <typename T>
  void StoreShared(std::byte* shared, const T& x) const {
    CheckShared(shared, sizeof(T));
    Store(shared, x);
  }
  void CheckShared(const std::byte* at, size_t bytes) const;
  const HostGrid::Copy* CopyInto(const std::byte* at, size_t bytes) const;

  HostGrid& grid_;
  HostGrid::Block& block_;
  HostGrid::Warp& warp_;
  int thread_;
  int64_t num_begun_ = 0;  // copies, by this lane
  int num_runs_ = 0;       // of parts, of the last of them
  int num_stages_ = 0;
};

}  // namespace thermocline
