/* User objects: a destructor that runs when the last reference is gone. */
#include <stdlib.h>

#include "../cuda_abi.h"
#include "sim.h"

struct CUuserObject_st {
    void *data;
    CUhostFn destroy;
    unsigned int refs;
};

SIM_EXPORT CUresult cuUserObjectCreate(CUuserObject *out, void *data, CUhostFn destroy,
                                       unsigned int refs, unsigned int flags) {
    if (!out || !destroy || !refs || flags != 1) return CUDA_ERROR_INVALID_VALUE;
    struct CUuserObject_st *object = malloc(sizeof *object);
    if (!object) return CUDA_ERROR_OUT_OF_MEMORY;
    *object = (struct CUuserObject_st){data, destroy, refs};
    *out = object;
    return CUDA_SUCCESS;
}
SIM_EXPORT CUresult cuUserObjectRetain(CUuserObject object, unsigned int count) {
    if (!object || !count) return CUDA_ERROR_INVALID_VALUE;
    __atomic_add_fetch(&object->refs, count, __ATOMIC_RELAXED);
    return CUDA_SUCCESS;
}
SIM_EXPORT CUresult cuUserObjectRelease(CUuserObject object, unsigned int count) {
    if (!object || !count) return CUDA_ERROR_INVALID_VALUE;
    if (__atomic_sub_fetch(&object->refs, count, __ATOMIC_ACQ_REL)) return CUDA_SUCCESS;
    object->destroy(object->data);
    free(object);
    return CUDA_SUCCESS;
}
/* Graphs keep them until the process ends: the reference is simply never returned. */
SIM_EXPORT CUresult cuGraphRetainUserObject(CUgraph graph, CUuserObject object, unsigned int count,
                                            unsigned int flags) {
    if (!graph || !object) return CUDA_ERROR_INVALID_VALUE;
    return flags & 1 ? CUDA_SUCCESS : cuUserObjectRetain(object, count);
}
SIM_EXPORT CUresult cuGraphReleaseUserObject(CUgraph graph, CUuserObject object,
                                             unsigned int count) {
    return graph ? cuUserObjectRelease(object, count) : CUDA_ERROR_INVALID_VALUE;
}
