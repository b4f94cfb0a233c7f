using Native.Kernels.Cpu.Machine;

namespace Native.Tests.Kernels.Cpu;

public sealed unsafe class WorkerPoolTests
{
    [Theory, InlineData(1), InlineData(2), InlineData(5)]
    public void For_RunsEveryIndexOnce_ThousandsOfTimes(int threads)
    {
        using var pool = new WorkerPool(threads);
        var random = new Random(1);
        int* hits = stackalloc int[70];
        for (int round = 0; round < 3000; round++)
        {
            int count = random.Next(70), grain = random.Next(1, 9);
            new Span<int>(hits, 70).Clear();
            pool.For(count, grain, &Count, hits);
            for (int i = 0; i < 70; i++) Assert.Equal(i < count ? 1 : 0, hits[i]);
            if (round % 1000 == 999) Thread.Sleep(5); // let the workers fall asleep
        }

        static void Count(void* hits, int first, int last, int worker)
        {
            for (int i = first; i < last; i++) Interlocked.Increment(ref ((int*)hits)[i]);
        }
    }

    [Theory, InlineData(2), InlineData(4)]
    public void For_SleepsUntilASlowWorkerIsThrough(int threads)
    {
        using var pool = new WorkerPool(threads);
        int* hits = stackalloc int[64];
        for (int round = 0; round < 50; round++)
        {
            new Span<int>(hits, 64).Clear();
            pool.ForShares(64, 1, &Count, hits);
            for (int i = 0; i < 64; i++) Assert.Equal(1, hits[i]);
        }

        static void Count(void* hits, int first, int last, int worker)
        {
            if (worker == 1) Thread.Sleep(1);
            Interlocked.Increment(ref ((int*)hits)[first]);
        }
    }

    [Fact]
    public void For_NamesItsWorkers()
    {
        using var pool = new WorkerPool(3);
        int outside = 0;
        pool.For(300, 1, &Check, &outside);
        Assert.Equal(0, outside);

        static void Check(void* outside, int first, int last, int worker)
        {
            if (worker is < 0 or > 2) Interlocked.Increment(ref *(int*)outside);
        }
    }

    [Theory, InlineData(1), InlineData(4)]
    public void AnExceptionInABody_SurfacesInTheCaller_AndThePoolLivesOn(int threads)
    {
        using var pool = new WorkerPool(threads);
        for (int round = 0; round < 50; round++)
        {
            Assert.Throws<InvalidTimeZoneException>(() => pool.For(100, 1, &Throw, null));
            int sum = 0;
            pool.For(100, 1, &Sum, &sum);
            Assert.Equal(4950, sum);
        }

        static void Throw(void* context, int first, int last, int worker)
        {
            if (last > 60) throw new InvalidTimeZoneException();
        }

        static void Sum(void* sum, int first, int last, int worker)
        {
            for (int i = first; i < last; i++) Interlocked.Add(ref *(int*)sum, i);
        }
    }

    [Fact]
    public void For_AllocatesNothing()
    {
        using var pool = new WorkerPool(2);
        int sum = 0;
        int* at = &sum;
        Assert.Equal(0, Allocations.Of(() =>
        {
            for (int i = 0; i < 1000; i++) pool.For(64, 1, &Sum, at);
        }));

        static void Sum(void* sum, int first, int last, int worker) => Interlocked.Add(ref *(int*)sum, last);
    }

    [Theory, InlineData(0), InlineData(-1), InlineData(1025)]
    public void AnAbsurdNumberOfThreads_IsRefused(int threads) => Assert.Throws<ArgumentOutOfRangeException>(() => new WorkerPool(threads));
}
