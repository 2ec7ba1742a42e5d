// Parts of a weight matrix, in the format of the file: nothing is quantised anew.
#pragma once

#include <cstddef>
#include <vector>

#include "gguf/gguf_file.h"

namespace tiercel {

// A view of so many rows. The matrix has two dimensions.
GgufTensor slice_rows(const GgufTensor& matrix, std::size_t first, std::size_t rows);
// So many columns of every row, copied into `storage`, which outlives them. Multiples of block_elements(type).
GgufTensor slice_columns(const GgufTensor& matrix, std::size_t first, std::size_t columns,
                         std::vector<std::byte>& storage);

}  // namespace tiercel
