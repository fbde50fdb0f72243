#include "benchmarks/kernels/machine_peak.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <ctime>

#include "kernels/cpu/cpu_device.h"

namespace thermocline {
namespace {

// This thread's processor time, which Google Benchmark counts too: what other threads take of the
// core is not held against it.
double CpuSeconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// Sixteen independent chains, far more than the instruction's latency needs.
__attribute__((target("avx512f,avx512vnni"))) int64_t DotRegisters(int64_t rounds) {
  __m512i sums[16];  // every loop over them is unrolled, or they would live in memory
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    sums[i] = _mm512_set1_epi32(i);
  }
  const __m512i a = _mm512_set1_epi8(3);
  const __m512i b = _mm512_set1_epi8(5);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      sums[i] = _mm512_dpbusd_epi32(sums[i], a, b);
      asm volatile("" : "+v"(sums[i]));  // keeps the work, in its register
    }
  }
  __m512i total = sums[0];
#pragma GCC unroll 16
  for (int i = 1; i < 16; ++i) {
    total = _mm512_add_epi32(total, sums[i]);
  }
  alignas(64) int32_t lanes[16];
  _mm512_store_si512(lanes, total);
  return lanes[0];
}

}  // namespace

__attribute__((target("avx2"))) void ReadMemory(const std::byte* data, size_t bytes) {
  __m256i sums[8] = {};
  for (size_t i = 0; i < bytes; i += 256) {
#pragma GCC unroll 8
    for (size_t j = 0; j < 8; ++j) {
      const auto* p = reinterpret_cast<const __m256i*>(data + i + 32 * j);
      sums[j] = _mm256_xor_si256(sums[j], _mm256_load_si256(p));
      asm volatile("" : "+x"(sums[j]));
    }
  }
}

double MeasureReadBandwidth() {
  // The buffer lies where weights lie: in huge pages, where the system gives them.
  const Buffer buffer = AllocateHostBuffer(size_t{512} << 20).value();
  std::memset(buffer.data(), 1, buffer.bytes());
  double best = 0;
  for (int repetition = 0; repetition < 5 && __builtin_cpu_supports("avx2"); ++repetition) {
    const double start = CpuSeconds();
    ReadMemory(buffer.data(), buffer.bytes());
    best = std::max(best, static_cast<double>(buffer.bytes()) / (CpuSeconds() - start));
  }
  return best;
}

double MeasureInt8Peak() {
  if (!__builtin_cpu_supports("avx512vnni")) {
    return 0;
  }
  constexpr int64_t kRounds = 2'000'000;
  double best = 0;
  for (int repetition = 0; repetition < 5; ++repetition) {
    const double start = CpuSeconds();
    volatile int64_t sink = DotRegisters(kRounds);
    static_cast<void>(sink);
    best = std::max(best, static_cast<double>(kRounds) * 16 * 64 / (CpuSeconds() - start));
  }
  return best;
}

}  // namespace thermocline
