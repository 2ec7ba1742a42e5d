#include "gguf/tensor_slice.h"

#include <cassert>
#include <cstring>

namespace tiercel {

GgufTensor slice_rows(const GgufTensor& matrix, std::size_t first, std::size_t rows) {
  assert(matrix.shape[2] * matrix.shape[3] == 1 && first + rows <= matrix.rows());
  GgufTensor slice = matrix;
  slice.shape[1] = rows;
  slice.data = matrix.data.subspan(first * matrix.row_bytes(), rows * matrix.row_bytes());
  return slice;
}

GgufTensor slice_columns(const GgufTensor& matrix, std::size_t first, std::size_t columns,
                         std::vector<std::byte>& storage) {
  const std::size_t unit = block_elements(matrix.type);
  assert(first % unit == 0 && columns % unit == 0 && first + columns <= matrix.columns());
  GgufTensor slice = matrix;
  slice.shape[0] = columns;
  const std::size_t begin = first / unit * block_bytes(matrix.type), bytes = slice.row_bytes();
  storage.resize(matrix.rows() * bytes);
  for (std::size_t row = 0; row < matrix.rows(); ++row) {
    std::memcpy(storage.data() + row * bytes, matrix.data.data() + row * matrix.row_bytes() + begin, bytes);
  }
  slice.data = storage;
  return slice;
}

}  // namespace tiercel
