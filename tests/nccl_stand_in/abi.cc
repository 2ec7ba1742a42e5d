// The values that programs are compiled with. This is compiled against the stand-in's header and, where it is found,
// against NCCL's own.
#include <nccl.h>

static_assert(NCCL_UNIQUE_ID_BYTES == 128 && sizeof(ncclUniqueId) == 128);
static_assert(ncclSuccess == 0 && ncclUnhandledCudaError == 1 && ncclSystemError == 2 && ncclInternalError == 3 &&
              ncclInvalidArgument == 4 && ncclInvalidUsage == 5 && ncclRemoteError == 6 && ncclInProgress == 7);
static_assert(ncclSum == 0 && ncclInt8 == 0 && ncclUint8 == 1 && ncclInt32 == 2 && ncclUint32 == 3 && ncclInt64 == 4 &&
              ncclUint64 == 5 && ncclFloat16 == 6 && ncclFloat32 == 7 && ncclFloat64 == 8 && ncclBfloat16 == 9 &&
              ncclFloat8e4m3 == 10 && ncclFloat8e5m2 == 11);
static_assert(sizeof(ncclResult_t) == 4 && sizeof(ncclDataType_t) == 4 && sizeof(ncclRedOp_t) == 4);

// Later versions of NCCL make the configuration longer, and take a shorter one by its size.
constexpr ncclConfig_t kConfig = NCCL_CONFIG_INITIALIZER;
static_assert(kConfig.size == sizeof(ncclConfig_t) && kConfig.magic == 0xcafebeef &&
              kConfig.version == NCCL_VERSION_CODE && kConfig.blocking == NCCL_CONFIG_UNDEF_INT);
static_assert(__builtin_offsetof(ncclConfig_t, blocking) == 16 && __builtin_offsetof(ncclConfig_t, netName) == 32 &&
              sizeof(ncclConfig_t) >= 80);
