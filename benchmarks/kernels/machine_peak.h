#pragma once

#include <cstddef>
#include <cstdint>

// What one core of this machine can do at best, measured in the same run as the kernels that are
// held against it.

namespace thermocline {

// Reads `bytes`, a multiple of 256, from a cache line on, as fast as a thread can. Needs AVX2.
void ReadMemory(const std::byte* data, size_t bytes);

// Bytes per second of reading half a GiB; 0 without AVX2.
double MeasureReadBandwidth();

// Multiply-accumulates per second of 8-bit integers from registers; 0 where the CPU has no
// instruction for them (AVX-512 VNNI).
double MeasureInt8Peak();

}  // namespace thermocline
