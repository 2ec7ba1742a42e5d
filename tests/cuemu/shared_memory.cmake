# cmake -DIN=x.cu -DOUT=x.cu.cc -P shared_memory.cmake: a .cu file as g++ reads it. C++ has no storage that belongs to a block, so
#     __shared__ float partial[8];            becomes   auto& partial = ::cuemu::shared<float[8]>();
#     extern __shared__ float scores[];       becomes   auto* scores = ::cuemu::dynamic_shared<float>();
# One variable to a declaration, one declaration to a line. Lines keep their numbers, and the file its name.
file(READ "${IN}" text)
string(REGEX REPLACE "extern __shared__ (__align__\\([0-9]+\\) )?([A-Za-z_][A-Za-z0-9_:<>, ]*) ([A-Za-z_0-9]+)\\[\\];"
  "auto* \\3 = ::cuemu::dynamic_shared<\\2>();" text "${text}")
string(REGEX REPLACE "__shared__ (__align__\\([0-9]+\\) )?([A-Za-z_][A-Za-z0-9_:<>, ]*) ([A-Za-z_0-9]+)((\\[[^]\n]*\\])*);"
  "auto& \\3 = ::cuemu::shared<\\2\\4>();" text "${text}")
if(text MATCHES "\n[^\n]*__shared__[^\n]*")
  message(FATAL_ERROR "${IN} declares shared memory in a way that the emulator does not read:${CMAKE_MATCH_0}")
endif()
file(WRITE "${OUT}" "#line 1 \"${IN}\"\n${text}")
