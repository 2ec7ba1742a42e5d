// Reads what tests/data/generate_tokenizer_data.py wrote.
#pragma once

#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "text/tokenizer.h"

namespace tiercel {

// `name` as in "tokenizer_<name>.json".
inline nlohmann::json read_tokenizer_data(const std::string& name) {
  const std::string path = std::string(TIERCEL_TEST_DATA) + "/tokenizer_" + name + ".json";
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return nlohmann::json::parse(file);
}

inline std::vector<std::string> tokenizer_texts() {
  return read_tokenizer_data("texts").at("texts").get<std::vector<std::string>>();
}

inline Vocabulary vocabulary_of(const nlohmann::json& data) {
  Vocabulary vocabulary;
  vocabulary.tokens = data.at("tokens").get<std::vector<std::string>>();
  vocabulary.types = data.at("types").get<std::vector<std::int64_t>>();
  vocabulary.merges = data.at("merges").get<std::vector<std::string>>();
  vocabulary.pre_tokenizer = data.at("pre_tokenizer").get<std::string>();
  return vocabulary;
}

}  // namespace tiercel
