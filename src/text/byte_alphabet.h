// The byte alphabet of byte-level BPE (GPT-2, Radford et al. 2019): one printable character for each of the 256 bytes,
// so that vocabularies can be stored as text. Visible Latin-1 characters stand for themselves, the others for U+0100
// onwards.
#pragma once

#include <string>
#include <string_view>

namespace tiercel {

// Appends the bytes that `token`, UTF-8 text in the alphabet, stands for. False where it has a character that is not in
// the alphabet or is not UTF-8; `out` is then as it was.
bool append_alphabet_bytes(std::string_view token, std::string& out);

}  // namespace tiercel
