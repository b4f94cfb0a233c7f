namespace Native.Bench.Kernels;

/// <summary>What one call of a kernel works through, so that its time can be told as bandwidth and as
/// arithmetic.</summary>
public abstract record Workload
{
    /// <summary>Bytes that must come from memory or caches, once.</summary>
    public abstract double Bytes { get; }

    /// <summary>Arithmetic operations; a multiplication with its addition counts two.</summary>
    public abstract double Operations { get; }

    /// <summary>Whether the products are of 8-bit integers; else of float32.</summary>
    public virtual bool IsInteger => false;
}
