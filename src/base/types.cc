#include "tiercel/types.h"

namespace tiercel {

std::string_view to_string(DType dtype) {
  switch (dtype) {
    case DType::F32: return "f32";
    case DType::F16: return "f16";
    case DType::BF16: return "bf16";
    case DType::Int8: return "int8";
  }
  return "unknown";
}

std::string_view to_string(Codec codec) {
  switch (codec) {
    case Codec::Raw: return "raw";
    case Codec::Lossless: return "lossless";
    case Codec::Int8: return "int8";
    case Codec::Int4: return "int4";
  }
  return "unknown";
}

}  // namespace tiercel
