// Sixteen lanes in plain arrays: any CPU, and what the other two are read against.

namespace {

struct Simd {
  struct F {
    float v[16];
  };
  struct I {
    int32_t v[16];
  };
  struct B {
    uint8_t v[64];
  };
  struct H {
    uint16_t v[16];
  };
  static constexpr int kMaxTokens = 2;
  static constexpr int NumVectors(int rows) { return rows == 1 ? 2 : 1; }

  static F Zero() { return Set(0); }
  static F Set(float x) {
    return Map([x](int) { return x; });
  }
  static F Load(const float* p) {
    return Map([p](int i) { return p[i]; });
  }
  static void Store(float* p, const F& x) { __builtin_memcpy(p, x.v, sizeof(x.v)); }
  static F Add(const F& a, const F& b) {
    return Map([&](int i) { return a.v[i] + b.v[i]; });
  }
  static F Sub(const F& a, const F& b) {
    return Map([&](int i) { return a.v[i] - b.v[i]; });
  }
  static F Mul(const F& a, const F& b) {
    return Map([&](int i) { return a.v[i] * b.v[i]; });
  }
  static F Div(const F& a, const F& b) {
    return Map([&](int i) { return a.v[i] / b.v[i]; });
  }
  static F Max(const F& a, const F& b) {
    return Map([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static F Min(const F& a, const F& b) {
    return Map([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  static F Fma(const F& a, const F& b, const F& c) {
    return Map([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
  }
  static F Abs(const F& a) {
    return Map([&](int i) { return __builtin_fabsf(a.v[i]); });
  }
  static F SelectGe(const F& x, const F& limit, const F& yes, const F& no) {
    return Map([&](int i) { return x.v[i] >= limit.v[i] ? yes.v[i] : no.v[i]; });
  }
  static F First(const F& x, int count, const F& other) {
    return Map([&](int i) { return i < count ? x.v[i] : other.v[i]; });
  }
  template <int kRun>
  static F SwapRuns(const F& x) {
    return Map([&](int i) { return x.v[i ^ kRun]; });
  }
  // Adding and taking away 1.5 * 2^23 leaves the nearest even integer of |x| < 2^22.
  static F Round(const F& x) {
    return Map([&](int i) {
      const volatile float shifted = x.v[i] + 12582912.0F;
      return shifted - 12582912.0F;
    });
  }
  static F Scale(const F& x, const F& n) {
    return Map([&](int i) {
      int32_t bits = 0;
      __builtin_memcpy(&bits, &x.v[i], sizeof(bits));
      bits += static_cast<int32_t>(n.v[i]) * (1 << 23);
      float scaled = 0;
      __builtin_memcpy(&scaled, &bits, sizeof(scaled));
      return scaled;
    });
  }
  static float Sum(const F& x) {
    F tree = x;
    for (int width = 8; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) {
        tree.v[i] += tree.v[i + width];
      }
    }
    return tree.v[0];
  }
  static float Largest(const F& x) {
    float largest = x.v[0];
    for (const float value : x.v) {
      largest = value > largest ? value : largest;
    }
    return largest;
  }

  static F LoadHalf(const uint16_t* p) {
    return Map([p](int i) { return HalfToFloat(p[i]); });
  }
  static void StoreHalf(uint16_t* p, const F& x) {
    for (int i = 0; i < 16; ++i) {
      p[i] = FloatToHalf(x.v[i]);
    }
  }
  static void StoreHalves(uint16_t* p, const H& x) { __builtin_memcpy(p, x.v, sizeof(x.v)); }
  static F ToFloat(const H& x) { return LoadHalf(x.v); }
  // 16 rows of 16 halves, `stride` apart: columns[j] is column j.
  static void TransposeHalves(const uint16_t* rows, int64_t stride, H* columns) {
    for (int j = 0; j < 16; ++j) {
      for (int i = 0; i < 16; ++i) {
        columns[j].v[i] = rows[i * stride + j];
      }
    }
  }
  static F LoadBFloat16(const uint16_t* p) {
    return Map([p](int i) { return BFloat16ToFloat(p[i]); });
  }

  static I SetInt(int32_t x) {
    I out;
    for (int32_t& lane : out.v) {
      lane = x;
    }
    return out;
  }
  static F ToFloat(const I& x) {
    return Map([&](int i) { return static_cast<float>(x.v[i]); });
  }
  static I AddInt(const I& a, const I& b) {
    return MapInt([&](int i) { return a.v[i] + b.v[i]; });
  }
  static I SubInt(const I& a, const I& b) {
    return MapInt([&](int i) { return a.v[i] - b.v[i]; });
  }
  template <int kBits>
  static I ShiftLeft(const I& x) {
    return MapInt([&](int i) { return x.v[i] * (1 << kBits); });
  }
  static int32_t StoreCodes(int8_t* high_codes, int8_t* low_codes, const F& x) {
    const F rounded = Round(x);
    int32_t sum = 0;
    for (int i = 0; i < 16; ++i) {
      // A row with infinities has a non-finite scale; its codes do not matter but must be defined.
      const bool fits = rounded.v[i] >= -16256 && rounded.v[i] <= 16256;
      const int32_t code = fits ? static_cast<int32_t>(rounded.v[i]) : 0;
      const int32_t high = (code + 64) >> 7;
      high_codes[i] = static_cast<int8_t>(high);
      low_codes[i] = static_cast<int8_t>(code - high * 128);
      sum += code;
    }
    return sum;
  }

  static void StoreInt8(uint8_t* p, const F& x) {
    const F rounded = Round(x);
    for (int i = 0; i < 16; ++i) {
      p[i] = static_cast<uint8_t>(static_cast<int8_t>(rounded.v[i]));
    }
  }

  using Table = F;
  static I LoadInts(const uint8_t* p) {
    I out;
    __builtin_memcpy(out.v, p, sizeof(out.v));
    return out;
  }
  static I WidenBytes(const uint8_t* p) {
    return MapInt([&](int i) { return int32_t{p[i]}; });
  }
  template <int kBits>
  static I ShiftRight(const I& x) {
    return MapInt(
        [&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(x.v[i]) >> kBits); });
  }
  static I AndInt(const I& x, int32_t mask) {
    return MapInt([&](int i) { return x.v[i] & mask; });
  }
  static I OrInt(const I& x, const I& y) {
    return MapInt([&](int i) { return x.v[i] | y.v[i]; });
  }
  template <int kByte>
  static F SignedByte(const I& x) {
    return Map([&](int i) {
      return static_cast<float>(static_cast<int8_t>(static_cast<uint32_t>(x.v[i]) >> 8 * kByte));
    });
  }
  template <int kEntries>
  static Table MakeTable(const float* entries) {
    return Map([&](int i) { return entries[i % kEntries]; });
  }
  template <int kEntries>
  static F LookUp(const Table& table, const I& x) {
    return Map([&](int i) { return table.v[x.v[i] & (kEntries - 1)]; });
  }

  static B LoadBytes(const uint8_t* p) {
    B out;
    __builtin_memcpy(out.v, p, sizeof(out.v));
    return out;
  }
  static B LowNibbles(const B& x) {
    B out;
    for (int i = 0; i < 64; ++i) {
      out.v[i] = x.v[i] & 15;
    }
    return out;
  }
  static B HighNibbles(const B& x) {
    B out;
    for (int i = 0; i < 64; ++i) {
      out.v[i] = x.v[i] >> 4;
    }
    return out;
  }
  static I DotNibbles(const I& sum, const B& weights, const int8_t* x) {
    return DotBytes(sum, weights, x);
  }
  static I DotBytes(const I& sum, const B& weights, const int8_t* x) {
    I out;
    for (int i = 0; i < 16; ++i) {
      const uint8_t* w = weights.v + 4 * i;
      out.v[i] = sum.v[i] + w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3];
    }
    return out;
  }

 private:
  template <typename Function>
  static I MapInt(Function function) {
    I out;
    for (int i = 0; i < 16; ++i) {
      out.v[i] = function(i);
    }
    return out;
  }
  template <typename Function>
  static F Map(Function function) {
    F out;
    for (int i = 0; i < 16; ++i) {
      out.v[i] = function(i);
    }
    return out;
  }
};

}  // namespace
