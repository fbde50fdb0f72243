#include "kernels/ops.h"

namespace thermocline {

void Ops::FinishQkv(Tensor qkv, const QkvParams& params, const BatchView& batch,
                    const KvCacheView& kv, Stream& stream) const {
  const KvLayout& layout = kv.layout;
  const int num_rotated = params.num_heads + layout.num_kv_heads;
  if (params.bias.data() != nullptr) {
    AddBias(qkv, params.bias, stream);
  }
  Rope(qkv, num_rotated, layout.head_dim, params.cos_sin, params.style, stream);
  // Pages of every tier are in one rotated basis, so that one query meets them all.
  Rotate(qkv, num_rotated + layout.num_kv_heads, params.signs, Rotation::kForward, stream);
  AppendKv(qkv, params.num_heads * layout.head_dim, num_rotated * layout.head_dim, batch, kv,
           params.layer, stream);
}

}  // namespace thermocline
