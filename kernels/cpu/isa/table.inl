// The table of one instruction set; included last.

namespace {

constexpr IsaTable kTable = {
    .quantize_row = QuantizeRow,
    .panel_product = {MultiplyPanel<PanelKind::kQ4_0>, MultiplyPanel<PanelKind::kQ4_1>,
                      MultiplyPanel<PanelKind::kQ5_0>, MultiplyPanel<PanelKind::kQ5_1>,
                      MultiplyPanel<PanelKind::kQ8_0>, MultiplyPanel<PanelKind::kQ4_K>,
                      MultiplyPanel<PanelKind::kQ5_K>, MultiplyPanel<PanelKind::kQ6_K>,
                      MultiplyPanel<PanelKind::kF32>, MultiplyPanel<PanelKind::kF16>,
                      MultiplyPanel<PanelKind::kBF16>},
    .rms_norm = RmsNormRow,
    .gated_silu = GatedSilu,
    .gated_gelu = GatedGelu,
    .half_to_float = HalfRowToFloat,
    .float_to_half = FloatRowToHalf,
    .narrow_queries = NarrowQueries,
    .attend_page = AttendPage,
    .attend_coded_page = AttendCodedPage,
    .merge_state = MergeState,
    .rotate_vector = RotateVector,
    .quantize_turbo = QuantizeTurboVector,
    .quantize_int8 = QuantizeInt8Vector,
    .dequantize_turbo = DequantizeTurboVector,
    .dequantize_int8 = DequantizeInt8Vector,
};

}  // namespace
