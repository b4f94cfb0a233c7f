namespace Native.Server;

/// <summary>Standard output or error that can't end the process: what a full disk or a closed pipe does not take is
/// lost, and the server goes on.</summary>
internal sealed class SteadyOutput(Stream inner) : Stream
{
    public override bool CanRead => false;

    public override bool CanSeek => false;

    public override bool CanWrite => true;

    public override long Length => throw new NotSupportedException();

    public override long Position
    {
        get => throw new NotSupportedException(); set =>
        throw new NotSupportedException();
    }

    /// <summary>Has everything that this process says go through one of these.</summary>
    public static void Install()
    {
        Console.SetOut(
            TextWriter.Synchronized(
                new StreamWriter(new SteadyOutput(Console.OpenStandardOutput())) { AutoFlush = true }));
        Console.SetError(
            TextWriter.Synchronized(
                new StreamWriter(new SteadyOutput(Console.OpenStandardError())) { AutoFlush = true }));
    }

    public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

    public override void Write(ReadOnlySpan<byte> buffer)
    {
        try
        {
            inner.Write(buffer);
        }
        catch (IOException)
        {
            // There is nobody left to tell.
        }
    }

    public override void Flush()
    {
    }

    public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();

    public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

    public override void SetLength(long value) => throw new NotSupportedException();
}
