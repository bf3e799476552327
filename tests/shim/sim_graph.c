/* Graphs: building, changing, launching; their effects come in the order of the edges. */
#include "sim_check.h"

static CUdeviceptr a, out;
static CUfunction fill, sum, ms;
static unsigned int n = 1000;

static unsigned long long result(void) {
    unsigned long long value = 0;
    MUST(cuMemcpyDtoH_v2(&value, out, 8));
    return value;
}

static CUDA_KERNEL_NODE_PARAMS params(CUfunction f, void **args) {
    return (CUDA_KERNEL_NODE_PARAMS){f, 1, 1, 1, 32, 1, 1, 0, args, NULL, NULL, NULL};
}

static int host_calls;
static void host(void *data) { __atomic_add_fetch((int *)data, 1, __ATOMIC_SEQ_CST); }

int main(void) {
    check_start();
    setenv("VGPU_SIM_KERNELS", "ms=1000", 1);
    setenv("VGPU_SIM_KERNEL_US", "2", 1);
    check_context();
    ms = check_kernel("ms"), fill = check_kernel("vgpu_sim_fill"),
    sum = check_kernel("vgpu_sim_checksum");
    MUST(cuMemAlloc_v2(&a, n * 4));
    MUST(cuMemAlloc_v2(&out, 8));
    CUgraph graph, clone;
    CUgraphExec exec;
    CUgraphNode set, filled, summed, called, in_clone;
    unsigned int two = 2, three = 3;
    MUST(cuGraphCreate(&graph, 0));
    CUDA_MEMSET_NODE_PARAMS zero = {.dst = out, .elementSize = 4, .width = 2, .height = 1};
    CUDA_KERNEL_NODE_PARAMS p = params(fill, (void *[]){&a, &two, &n});
    MUST(cuGraphAddMemsetNode(&set, graph, NULL, 0, &zero, NULL));
    MUST(cuGraphAddKernelNode_v2(&filled, graph, NULL, 0, &p));
    p = params(sum, (void *[]){&out, &a, &n});
    MUST(cuGraphAddKernelNode_v2(&summed, graph, (CUgraphNode[]){set, filled}, 2, &p));
    CUDA_HOST_NODE_PARAMS call = {host, &host_calls};
    MUST(cuGraphAddHostNode(&called, graph, &summed, 1, &call));
    size_t count = 0, roots = 0, edges = 0;
    MUST(cuGraphGetNodes(graph, NULL, &count));
    MUST(cuGraphGetRootNodes(graph, NULL, &roots));
    MUST(cuGraphGetEdges(graph, NULL, NULL, &edges));
    CHECK("four nodes, two roots, three edges", count == 4 && roots == 2 && edges == 3);
    MUST(cuGraphInstantiateWithFlags(&exec, graph, 0));
    MUST(cuGraphLaunch(exec, NULL));
    MUST(cuStreamSynchronize(NULL));
    CHECK("it computes", result() == 2000 && host_calls == 1);
    p = params(fill, (void *[]){&a, &three, &n});
    MUST(cuGraphExecKernelNodeSetParams_v2(exec, filled, &p));
    MUST(cuGraphLaunch(exec, NULL));
    CHECK("with new parameters", result() == 3000);
    MUST(cuGraphClone(&clone, graph));
    MUST(cuGraphNodeFindInClone(&in_clone, filled, clone));
    unsigned int five = 5;
    p = params(fill, (void *[]){&a, &five, &n});
    MUST(cuGraphKernelNodeSetParams_v2(in_clone, &p));
    CUgraphExecUpdateResultInfo info;
    MUST(cuGraphExecUpdate_v2(exec, clone, &info));
    MUST(cuGraphLaunch(exec, NULL));
    CHECK("updated from a clone", result() == 5000);
    MUST(cuGraphDestroyNode(in_clone));
    CHECK("another topology is refused",
          cuGraphExecUpdate_v2(exec, clone, &info) == 910 &&
              info.result == CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
    MUST(cuGraphAddDependencies(graph, &called, &set, 1));
    CUgraphExec cyclic;
    CHECK("a cycle cannot be instantiated", cuGraphInstantiateWithFlags(&cyclic, graph, 0) != 0);
    MUST(cuGraphDestroy(graph));
    MUST(cuGraphDestroy(clone));
    MUST(cuGraphExecDestroy(exec));

    /* 20,000 kernels: 44 MiB that the exec's end does not return */
    size_t before = check_free();
    CUgraphNode node, last = NULL;
    MUST(cuGraphCreate(&graph, 0));
    p = params(check_kernel("tiny"), NULL);
    for (int i = 0; i < 20000; i++) {
        MUST(cuGraphAddKernelNode_v2(&node, graph, &last, last ? 1 : 0, &p));
        last = node;
    }
    MUST(cuGraphInstantiateWithFlags(&exec, graph, 0));
    double start = check_now();
    MUST(cuGraphLaunch(exec, NULL));
    double call_ms = check_now() - start;
    MUST(cuStreamSynchronize(NULL));
    double took = check_now() - start;
    CHECK("20000 kernels of 2 us take 40 ms", call_ms < 40 && took > 39.9 && took < 400);
    MUST(cuGraphExecDestroy(exec));
    CHECK("and 44 MiB that stay", before - check_free() == 44 * MIB);
    MUST(cuGraphDestroy(graph));
    return check_failed;
}
