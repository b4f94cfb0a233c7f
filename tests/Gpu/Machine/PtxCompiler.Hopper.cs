namespace Native.Tests.Gpu.Machine;

/// <summary>What sm_90 adds.</summary>
internal sealed unsafe partial class PtxCompiler
{
    private bool Hopper(Form form, string opcode) => false;

    private void ClusterBarrier(Form form) => throw form.Unknown("barriers of clusters are not known");
}
