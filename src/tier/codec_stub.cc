#include <cstring>
#include "tier/codec.h"
namespace tiercel {
namespace {
class Raw final : public BlockCodec {
 public:
  explicit Raw(std::size_t bytes) : bytes_(bytes) {}
  Codec codec() const override { return Codec::Raw; }
  std::unique_ptr<Workspace> make_workspace() const override { return std::make_unique<Workspace>(); }
  std::size_t max_encoded_bytes() const override { return bytes_; }
  std::size_t encode(std::span<const std::byte> block, std::span<std::byte> encoded, Workspace&) const override { std::memcpy(encoded.data(), block.data(), block.size()); return block.size(); }
  Status decode(std::span<const std::byte> encoded, std::span<std::byte> block, Workspace&) const override { if (encoded.size()!=block.size()) return Status(StatusCode::Corruption,{}); std::memcpy(block.data(), encoded.data(), block.size()); return {}; }
 private:
  std::size_t bytes_;
};
}
Result<std::unique_ptr<BlockCodec>> make_codec(Codec, const KvLayout& layout) { return std::unique_ptr<BlockCodec>(std::make_unique<Raw>(layout.block_bytes())); }
}
