#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/hd.h"

// XXH3_64bits with seed 0 and its default secret, after the published algorithm
// (xxhash 0.8, doc/xxhash_spec.md). In pieces, so that the lanes of a GPU can share the work of a
// long input: eight lanes of 64 bits each take a word of every stripe of 64 bytes; the stripes of
// a block of 1 KiB only add up, and a scramble ends each block. Little-endian machines.

namespace thermocline {

struct Xxh3Secret {
  uint64_t words[24];
};
// A kernel is given it as an argument: device code cannot index a constant of the host.
inline constexpr Xxh3Secret kXxh3Secret = {{
    0xbe4ba423396cfeb8, 0x1cad21f72c81017c, 0xdb979083e96dd4de, 0x1f67b3b7a4a44072,
    0x78e5c0cc4ee679cb, 0x2172ffcc7dd05a82, 0x8e2443f7744608b8, 0x4c263a81e69035e0,
    0xcb00c391bb52283c, 0xa32e531b8b65d088, 0x4ef90da297486471, 0xd8acdea946ef1938,
    0x3f349ce33f76faa8, 0x1d4f0bc7c7bbdcf9, 0x3159b4cd4be0518a, 0x647378d9c97e9fc8,
    0xc3ebd33483acc5ea, 0xeb6313faffa081c5, 0x49daf0b751dd0d17, 0x9e68d429265516d3,
    0xfca1477d58be162b, 0xce31d07ad1b8f88f, 0x280416958f3acb45, 0x7e404bbbcafbd7af,
}};

inline constexpr int kXxh3Lanes = 8;
inline constexpr size_t kXxh3StripeBytes = 64;
inline constexpr size_t kXxh3BlockStripes = 16;
inline constexpr size_t kXxh3BlockBytes = kXxh3BlockStripes * kXxh3StripeBytes;
inline constexpr size_t kXxh3LongestShort = 240;  // longer inputs are hashed in lanes
inline constexpr size_t kXxh3ScrambleKey = 128;   // bytes into the secret
inline constexpr size_t kXxh3LastStripeKey = 121;

inline constexpr uint64_t kXxhPrimeOf32Bits1 = 0x9e3779b1;
inline constexpr uint64_t kXxhPrimeOf32Bits2 = 0x85ebca77;
inline constexpr uint64_t kXxhPrimeOf32Bits3 = 0xc2b2ae3d;
inline constexpr uint64_t kXxhPrime1 = 0x9e3779b185ebca87;
inline constexpr uint64_t kXxhPrime2 = 0xc2b2ae3d27d4eb4f;
inline constexpr uint64_t kXxhPrime3 = 0x165667b19e3779f9;
inline constexpr uint64_t kXxhPrime4 = 0x85ebca77c2b2ae63;
inline constexpr uint64_t kXxhPrime5 = 0x27d4eb2f165667c5;
inline constexpr uint64_t kXxhMix1 = 0x165667919e3779f9;
inline constexpr uint64_t kXxhMix2 = 0x9fb21c651e98df25;

// The low 64 bits of the product, xor its high ones.
HD constexpr uint64_t Xxh3Fold(uint64_t a, uint64_t b) {
  const uint64_t a0 = a & 0xffffffffU;
  const uint64_t a1 = a >> 32;
  const uint64_t b0 = b & 0xffffffffU;
  const uint64_t b1 = b >> 32;
  const uint64_t middle = (a0 * b0 >> 32) + (a1 * b0 & 0xffffffffU) + a0 * b1;
  return (a * b) ^ (a1 * b1 + (a1 * b0 >> 32) + (middle >> 32));
}

HD constexpr uint64_t XxhRotate(uint64_t x, int by) { return x << by | x >> (64 - by); }
HD constexpr uint64_t XxhSwap(uint64_t x) {
  uint64_t swapped = 0;
  for (int i = 0; i < 8; ++i) {
    swapped = swapped << 8 | (x >> 8 * i & 0xffU);
  }
  return swapped;
}
HD constexpr uint64_t Xxh3Avalanche(uint64_t x) {
  x = (x ^ x >> 37) * kXxhMix1;
  return x ^ x >> 32;
}
HD constexpr uint64_t Xxh64Avalanche(uint64_t x) {
  x = (x ^ x >> 33) * kXxhPrime2;
  x = (x ^ x >> 29) * kXxhPrime3;
  return x ^ x >> 32;
}

// Eight (four) bytes at any address.
HD inline uint64_t XxhRead(const std::byte* at, int bytes = 8) {
  uint64_t x = 0;
  for (int i = 0; i < bytes; ++i) {
    x |= static_cast<uint64_t>(at[i]) << 8 * i;
  }
  return x;
}
// Eight bytes of the secret, `at` bytes from its start.
HD inline uint64_t Xxh3Key(const uint64_t* secret, size_t at) {
  const size_t shift = 8 * (at % 8);
  const uint64_t low = secret[at / 8] >> shift;
  return shift == 0 ? low : low | secret[at / 8 + 1] << (64 - shift);
}

// A lane of a long input: what it begins with, and what ends a block.
HD constexpr uint64_t Xxh3FirstValue(int lane) {
  switch (lane) {
    case 0:
      return kXxhPrimeOf32Bits3;
    case 1:
      return kXxhPrime1;
    case 2:
      return kXxhPrime2;
    case 3:
      return kXxhPrime3;
    case 4:
      return kXxhPrime4;
    case 5:
      return kXxhPrimeOf32Bits2;
    case 6:
      return kXxhPrime5;
    default:
      return kXxhPrimeOf32Bits1;
  }
}
// What a word of a stripe adds to its lane. The word itself is added to the lane beside it (i ^ 1).
HD constexpr uint64_t Xxh3Product(uint64_t word, uint64_t key) {
  const uint64_t keyed = word ^ key;
  return (keyed & 0xffffffffU) * (keyed >> 32);
}
HD constexpr uint64_t Xxh3Scramble(uint64_t lane, uint64_t key) {
  return (lane ^ lane >> 47 ^ key) * kXxhPrimeOf32Bits1;
}
HD inline uint64_t Xxh3MergeLanes(const uint64_t* lanes, size_t bytes, const uint64_t* secret) {
  uint64_t hash = bytes * kXxhPrime1;
  for (size_t i = 0; i < kXxh3Lanes; i += 2) {
    hash += Xxh3Fold(lanes[i] ^ Xxh3Key(secret, 11 + 8 * i),
                     lanes[i + 1] ^ Xxh3Key(secret, 19 + 8 * i));
  }
  return Xxh3Avalanche(hash);
}

HD inline uint64_t Xxh3Mix16(const std::byte* data, const uint64_t* secret, size_t key) {
  return Xxh3Fold(XxhRead(data) ^ Xxh3Key(secret, key),
                  XxhRead(data + 8) ^ Xxh3Key(secret, key + 8));
}

HD inline uint64_t Xxh3UpTo16(const std::byte* data, size_t bytes, const uint64_t* secret) {
  if (bytes > 8) {
    const uint64_t low = XxhRead(data) ^ Xxh3Key(secret, 24) ^ Xxh3Key(secret, 32);
    const uint64_t high = XxhRead(data + bytes - 8) ^ Xxh3Key(secret, 40) ^ Xxh3Key(secret, 48);
    return Xxh3Avalanche(bytes + XxhSwap(low) + high + Xxh3Fold(low, high));
  }
  if (bytes >= 4) {
    const uint64_t both = XxhRead(data + bytes - 4, 4) + (XxhRead(data, 4) << 32);
    uint64_t x = both ^ Xxh3Key(secret, 8) ^ Xxh3Key(secret, 16);
    x = (x ^ XxhRotate(x, 49) ^ XxhRotate(x, 24)) * kXxhMix2;
    x = (x ^ ((x >> 35) + bytes)) * kXxhMix2;
    return x ^ x >> 28;
  }
  if (bytes == 0) {
    return Xxh64Avalanche(Xxh3Key(secret, 56) ^ Xxh3Key(secret, 64));
  }
  const uint64_t all = XxhRead(data, 1) << 16 | XxhRead(data + bytes / 2, 1) << 24 |
                       XxhRead(data + bytes - 1, 1) | bytes << 8;
  return Xxh64Avalanche(all ^ ((secret[0] ^ secret[0] >> 32) & 0xffffffffU));
}

// The hash of at most kXxh3LongestShort bytes.
HD inline uint64_t Xxh3Short(const std::byte* data, size_t bytes, const uint64_t* secret) {
  if (bytes <= 16) {
    return Xxh3UpTo16(data, bytes, secret);
  }
  uint64_t hash = bytes * kXxhPrime1;
  if (bytes <= 128) {  // pairs of 16 bytes from both ends, which meet or overlap
    for (size_t i = 0; 32 * i < bytes; ++i) {
      hash += Xxh3Mix16(data + 16 * i, secret, 32 * i);
      hash += Xxh3Mix16(data + bytes - 16 * (i + 1), secret, 32 * i + 16);
    }
    return Xxh3Avalanche(hash);
  }
  for (size_t i = 0; i < bytes / 16; ++i) {
    hash += Xxh3Mix16(data + 16 * i, secret, i < 8 ? 16 * i : 16 * (i - 8) + 3);
    hash = i == 7 ? Xxh3Avalanche(hash) : hash;
  }
  return Xxh3Avalanche(hash + Xxh3Mix16(data + bytes - 16, secret, 119));
}

// One thread's work, of any length.
HD inline uint64_t Xxh3(const std::byte* data, size_t bytes, const uint64_t* secret) {
  if (bytes <= kXxh3LongestShort) {
    return Xxh3Short(data, bytes, secret);
  }
  uint64_t lanes[kXxh3Lanes];
  for (int i = 0; i < kXxh3Lanes; ++i) {
    lanes[i] = Xxh3FirstValue(i);
  }
  const auto add = [&](const std::byte* stripe, size_t key) {
    for (size_t i = 0; i < kXxh3Lanes; ++i) {
      const uint64_t word = XxhRead(stripe + 8 * i);
      lanes[i ^ 1U] += word;
      lanes[i] += Xxh3Product(word, Xxh3Key(secret, key + 8 * i));
    }
  };
  const size_t num_stripes = (bytes - 1) / kXxh3StripeBytes;  // the last one is added by itself
  for (size_t i = 0; i < num_stripes; ++i) {
    add(data + kXxh3StripeBytes * i, 8 * (i % kXxh3BlockStripes));
    for (int k = 0; k < kXxh3Lanes && i % kXxh3BlockStripes == kXxh3BlockStripes - 1; ++k) {
      lanes[k] = Xxh3Scramble(lanes[k], secret[kXxh3ScrambleKey / 8 + static_cast<size_t>(k)]);
    }
  }
  add(data + bytes - kXxh3StripeBytes, kXxh3LastStripeKey);
  return Xxh3MergeLanes(lanes, bytes, secret);
}

}  // namespace thermocline
