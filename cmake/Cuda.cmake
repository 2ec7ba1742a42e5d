# Resolves TIERCEL_CUDA (on, off or auto) to TIERCEL_CUDA_ENABLED. With it on, the CUDA runtime is linked statically, so that
# the program also starts on a machine without a driver.
string(TOLOWER "${TIERCEL_CUDA}" cuda_choice)
if(NOT cuda_choice MATCHES "^(on|off|auto)$")
  message(FATAL_ERROR "TIERCEL_CUDA is \"${TIERCEL_CUDA}\"; it must be on, off or auto")
endif()

set(TIERCEL_CUDA_ENABLED OFF)
if(NOT cuda_choice STREQUAL "off")
  find_package(CUDAToolkit 13 QUIET)
  if(TARGET CUDA::cudart_static)
    set(TIERCEL_CUDA_ENABLED ON)
  elseif(cuda_choice STREQUAL "on")
    message(FATAL_ERROR "TIERCEL_CUDA=on, but no CUDA toolkit 13 with the static runtime was found. Install one (Debian and "
      "Ubuntu: NVIDIA's package cuda-toolkit-13-0), name it by -DCUDAToolkit_ROOT=<path>, or configure with "
      "-DTIERCEL_CUDA=off.")
  endif()
endif()

if(TIERCEL_CUDA_ENABLED)
  message(STATUS "CUDA: on (TIERCEL_CUDA=${cuda_choice}), toolkit ${CUDAToolkit_VERSION} in ${CUDAToolkit_BIN_DIR}")
else()
  message(STATUS "CUDA: off (TIERCEL_CUDA=${cuda_choice})")
endif()

# tiercel_cuda_objects(TARGET FILE.cu...): compiles them for the GPUs that tiercel is for, A100 (sm_80) and H100/H200 (sm_90). Beside each
# object, FILE.resources is what ptxas says of each kernel: registers, shared memory, spills. By commands of its own rather than CMake's
# CUDA language: CMake 3.25 knows no C++20 for nvcc 13.
set(TIERCEL_CUDA_FLAGS -std=c++20 -O3 --expt-relaxed-constexpr -Xcompiler=-fPIC
  -gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_90,code=sm_90 -gencode=arch=compute_90,code=compute_90)
function(tiercel_cuda_objects target)
  set(includes -I${PROJECT_SOURCE_DIR} -I${PROJECT_SOURCE_DIR}/src -I${PROJECT_SOURCE_DIR}/include)
  set(objects)
  foreach(source ${ARGN})
    get_filename_component(name ${source} NAME_WE)
    set(object ${CMAKE_CURRENT_BINARY_DIR}/${name}.cu.o)
    add_custom_command(OUTPUT ${object} ${name}.resources
      COMMAND ${CMAKE_COMMAND} -DOBJECT=${object} -DRESOURCES=${CMAKE_CURRENT_BINARY_DIR}/${name}.resources
        -P ${PROJECT_SOURCE_DIR}/cmake/CompileCuda.cmake -- ${TIERCEL_CCACHE} ${CUDAToolkit_NVCC_EXECUTABLE} ${TIERCEL_CUDA_FLAGS}
        -ccbin ${CMAKE_CXX_COMPILER} ${includes} -Xptxas=-v -MD -MF ${object}.d -c ${CMAKE_CURRENT_SOURCE_DIR}/${source} -o ${object}
      DEPENDS ${source} ${PROJECT_SOURCE_DIR}/cmake/CompileCuda.cmake DEPFILE ${object}.d
      COMMENT "Compiling ${name}.cu for GPUs" VERBATIM)
    list(APPEND objects ${object})
  endforeach()
  add_custom_target(${target} ALL DEPENDS ${objects})
  set_property(TARGET ${target} PROPERTY TIERCEL_OBJECTS ${objects})
endfunction()
